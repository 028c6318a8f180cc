"""MobileNets and EfficientNets of every size: the names and shapes that other libraries give them, and their constants.

Values are compared in ``test_parity.py``; nothing here needs memory for weights.
"""

from dataclasses import asdict
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from fieldguide.models import create_model
from fieldguide.models.vision import efficientnet, mobilenet
from fieldguide.weights import export_weights, load_weights
from fieldguide.weights.family import family_named

SIZES = [name for file in (mobilenet, efficientnet) for name in file.SIZES if not name.endswith("mini")]
TIMM = {
    "mobilenet_v1": "mobilenetv1_100",
    "mobilenet_v2": "mobilenetv2_100",
    "mobilenet_v3_large": "mobilenetv3_large_100",
    "mobilenet_v3_small": "mobilenetv3_small_100",
    **{name: name.replace("net_v2", "netv2") for name in efficientnet.SIZES},
}


REPEATED = {f"efficientnet_{size}" for size in ("b2", "b3", "b4", "b5", "b6", "b7", "v2_l")}
"""More of the blocks that another size has too."""


def each(without: set[str]) -> pytest.MarkDecorator:
    marks = {name: [pytest.mark.slow] * (name in REPEATED) for name in SIZES if name not in without}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=slow) for name, slow in marks.items()])


def constants(layout: str, name: str) -> dict[str, Any]:
    return family_named(name.split("_")[0]).conventions_of(layout, name)


def outline(state: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


@each(without={"mobilenet_v1"})
def test_torchvision_calls_every_tensor_so(name):
    with torch.device("meta"):
        ours, theirs = create_model(name), torchvision.models.get_model(name, weights=None)
    assert outline(export_weights(ours, "torchvision")) == outline(theirs.state_dict())
    conventions = constants("torchvision", name)
    norms = {(norm.eps, norm.momentum) for norm in theirs.modules() if isinstance(norm, nn.BatchNorm2d)}
    assert norms == {(conventions["norm_eps"], conventions["norm_momentum"])}
    assert asdict(ours.config) | conventions == asdict(ours.config), "our own sizes are torchvision's"


@each(without=set())
def test_timm_calls_every_tensor_so_and_has_these_constants(name):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        ours, theirs = create_model(name), timm.create_model(TIMM[name])
    assert outline(export_weights(ours, "timm")) == outline(theirs.state_dict())
    conventions = constants("timm", name)
    norms = {(norm.eps, norm.momentum) for norm in theirs.modules() if isinstance(norm, nn.BatchNorm2d)}
    assert norms == {(conventions["norm_eps"], conventions["norm_momentum"])}


@each(without={"mobilenet_v1", "mobilenet_v2"})
def test_timms_tensorflow_models_have_the_same_names_and_other_constants(name):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        ours, theirs = create_model(name), timm.create_model(f"tf_{TIMM[name]}")
    assert outline(export_weights(ours, "timm_tf")) == outline(theirs.state_dict())
    conventions = constants("timm_tf", name)
    norms = {(norm.eps, norm.momentum) for norm in theirs.modules() if isinstance(norm, nn.BatchNorm2d)}
    assert norms == {(conventions["norm_eps"], conventions["norm_momentum"])}
    strided = {
        type(layer).__name__ for layer in theirs.modules() if isinstance(layer, nn.Conv2d) and layer.stride[0] > 1
    }
    assert (strided, conventions["padding"]) == ({"Conv2dSame"}, "same")


@pytest.mark.parametrize("version", [1, 2])
def test_transformers_without_a_head(version, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"MobileNetV{version}Config")(depth_multiplier=0.25)
    getattr(transformers, f"MobileNetV{version}Model")(config).save_pretrained(tmp_path)
    report = load_weights(create_model(f"mobilenet_v{version}", width=0.25, num_classes=5), tmp_path, strict=False)
    assert report.layout == "transformers"
    assert report.kept.keys() == {"head.weight", "head.bias"}
    assert report.conventions.keys() == {"norm_eps", "padding"}
