"""VGG's layouts in every size by name and shape, and what fine-tuning keeps of its hidden layers."""

import pytest
import torch
from torchvision.models import get_model

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.models.vision.vgg import PLAIN
from fieldguide.weights import export_weights, load_weights

SIZES = [f"{name}{norm}" for name in PLAIN for norm in ("", "_bn")]
SMALL = {"widths": (4, 4, 8, 8, 8), "units": (6, 5)}


def small_file(name="vgg16", **overrides):
    """A checkpoint in torchvision's names."""
    return {key: tensor.clone() for key, tensor in export_weights(create_model(name, **SMALL, **overrides)).items()}


def outline(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", SIZES)
def test_every_size_has_the_names_and_shapes_of_both_libraries(name):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        ours = create_model(name)
        oracles = {"torchvision": get_model(name, weights=None), "timm": timm.create_model(name)}
    for layout, oracle in oracles.items():
        assert outline(export_weights(ours, layout)) == outline(oracle.state_dict())


def test_the_file_that_is_published_for_its_features():
    """torchvision's VGG16 with the authors' weights: NaN in all three fully connected layers."""
    published = small_file()
    broken = {key: torch.full_like(t, float("nan")) if "classifier" in key else t for key, t in published.items()}
    model = create_model("vgg16", **SMALL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.warns(
        UserWarning, match=r"holds features only: classifier\.0\.weight, .* and 3 more are nothing but NaN"
    ):
        report = load_weights(model, broken)
    assert set(report.kept) == {name for name in before if not name.startswith("stages.")}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name in report.kept), name
    assert torch.equal(model.stages[4][2].conv.weight, published["features.28.weight"])


def test_other_classes_replace_the_last_layer_only():
    published = small_file()
    model = create_model("vgg16", num_classes=7, **SMALL)
    with pytest.raises(FieldguideError, match=r"classifier\.6\.weight is \(1000, 5\)"):
        load_weights(model, published)
    report = load_weights(model, published, strict=False)
    assert report.kept.keys() == {"head.weight", "head.bias"}
    assert torch.equal(model.hidden[0].weight, published["classifier.0.weight"])
    assert torch.equal(model.hidden[3].weight, published["classifier.3.weight"])


def test_features_alone_and_grey_images():
    features = {key: tensor for key, tensor in small_file("vgg11_bn").items() if key.startswith("features.")}
    model = create_model("vgg11_bn", in_channels=1, **SMALL)
    report = load_weights(model, features, strict=False)
    assert report.adapted.keys() == {"stages.0.0.conv.weight"}
    assert all(name.startswith(("hidden.", "head.")) for name in report.kept)
    assert len(report.loaded) == len(features)


def test_another_size_is_named():
    with torch.device("meta"):
        published = get_model("vgg13_bn", weights=None).state_dict()
        model = create_model("vgg16_bn")
    with pytest.raises(FieldguideError, match=r"does not fit vgg16_bn: .*it looks like vgg13_bn in torchvision layout"):
        load_weights(model, published)
