"""MobileNets: what their papers and torchvision fix beyond the weights."""

import pytest
import torch
import torchvision
from torch import nn

from fieldguide.blocks.conv import SameConv2d
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.models.vision.mobilenet import SIZES
from fieldguide.weights import load_weights


@pytest.mark.parametrize(("width", "millions"), [(1.0, 4.2), (0.75, 2.6), (0.5, 1.3), (0.25, 0.5)])
def test_v1_has_the_papers_number_of_parameters_at_every_width(width, millions):
    """Howard et al. 2017, table 6."""
    with torch.device("meta"):
        model = create_model("mobilenet_v1", width=width)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("width", [0.35, 0.75, 1.4])
def test_v2_is_scaled_as_torchvision_does_and_never_narrows_its_last_convolution(width):
    with torch.device("meta"):
        model = create_model("mobilenet_v2", width=width)
        theirs = torchvision.models.mobilenet_v2(width_mult=width)
    assert [p.shape for p in model.parameters()] == [p.shape for p in theirs.parameters()]


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"])
def test_constants_are_torchvisions(name):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None)
    norms = {(norm.eps, norm.momentum) for norm in theirs.modules() if isinstance(norm, nn.BatchNorm2d)}
    assert norms == {(SIZES[name].norm_eps, SIZES[name].norm_momentum)}
    assert {layer.p for layer in theirs.modules() if isinstance(layer, nn.Dropout)} == {SIZES[name].dropout}


def test_training_equals_torchvisions():
    """Gradients and, because v3's norms have a momentum of their own, running statistics."""
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v3_small(dropout=0.0).double()
    ours = create_model("mobilenet_v3_small", dropout=0.0).double()
    load_weights(ours, theirs.state_dict())
    x = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    for model in (ours, theirs):
        model.train()(x).square().sum().backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        scale = other.grad.abs().max().item()
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-8, atol=1e-8 * scale)
    for (name, one), other in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert name.endswith("tracked") or not torch.equal(one, torch.full_like(one, "var" in name)), "it moved"
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_features_are_the_stages():
    model = create_model("mobilenet_v3_large", in_channels=1, num_classes=5).eval()
    maps = model.features(torch.randn(1, 1, 96, 64))
    shapes = [(16, 48, 32), (24, 24, 16), (40, 12, 8), (80, 6, 4), (112, 6, 4), (160, 3, 2)]
    assert [tuple(m.shape[1:]) for m in maps] == shapes
    assert [tuple(info) for info in model.feature_info] == [(shape[0], 96 // shape[1]) for shape in shapes]


def test_too_small_images_are_refused_in_one_line():
    with pytest.raises(FieldguideError, match=r"MobileNet takes images .* at least 32 pixels, got \(1, 3, 28, 28\)"):
        create_model("mobilenet_v3_small")(torch.zeros(1, 3, 28, 28))
    assert create_model("mobilenet_mini").eval()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_a_config_that_pads_as_tensorflow_is_built_so():
    strided = [
        layer
        for layer in create_model("mobilenet_v1", padding="same").modules()
        if isinstance(layer, nn.Conv2d) and max(layer.stride) > 1
    ]
    assert len(strided) == 5
    assert {type(layer) for layer in strided} == {SameConv2d}


def test_a_layout_brings_its_librarys_constants():
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("mobilenetv3_small_100").state_dict()
    model = create_model("mobilenet_v3_small").eval()
    x = torch.randn(1, 3, 64, 64)
    report = load_weights(model, theirs)
    assert report.conventions.keys() == {"norm_eps", "norm_momentum"}
    assert (model.config.norm_eps, model.config.norm_momentum) == (1e-5, 0.1)
    plain = model(x)
    report = load_weights(model, theirs, layout="timm_tf")
    assert report.conventions.keys() == {"norm_eps", "padding"}
    assert (model.config.norm_eps, model.config.padding) == (1e-3, "same")
    assert not torch.allclose(model(x), plain)
    load_weights(model, theirs)
    assert torch.equal(model(x), plain)


def test_the_last_library_counts():
    timm = pytest.importorskip("timm")
    public = torchvision.models.mobilenet_v3_small().eval()
    model = create_model("mobilenet_v3_small", weights=timm.create_model("mobilenetv3_small_100").state_dict()).eval()
    load_weights(model, public.state_dict())
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(x), public(x))
    assert model.config == create_model("mobilenet_v3_small").config
    mine = create_model("mobilenet_v3_small", weights=public.state_dict(), norm_eps=1e-4)
    assert mine.config.norm_eps == mine.stem.norm.eps == 1e-4, "what was asked for stays"
