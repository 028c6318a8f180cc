"""``create_model``: names, overrides and weights, and what is said when one of them is wrong."""

import pytest
import torch
import torchvision

from fieldguide.errors import DamagedFile, FieldguideError, UnknownField
from fieldguide.models import create_model, save_model


def test_overrides_reach_the_config_and_the_layers():
    model = create_model("resnet_mini", num_classes=7, in_channels=3, widths=[8, 16, 32], stem_width=8)
    assert model.config.widths == (8, 16, 32)
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 7)
    assert model.name == "resnet_mini"


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(FieldguideError, match=r"unknown model 'resnet51'; did you mean 'resnet50'"):
        create_model("resnet51")


def test_an_unknown_field_is_a_type_error_that_lists_the_fields():
    with pytest.raises(
        UnknownField, match=r"vit_mini has no field 'd_modell'; did you mean 'd_model'\?; fields: d_ff, "
    ) as caught:
        create_model("vit_mini", d_modell=3)
    assert isinstance(caught.value, TypeError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "kind"),
    [
        ("num_classes", "10", "int"),
        ("num_classes", True, "int"),
        ("widths", 64, r"tuple\[int, ...\]"),
        ("widths", [64, "x"], r"tuple\[int, ...\]"),
        ("stem", "9x9", r"Literal\['7x7', '3x3'\]"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(field, value, kind):
    with pytest.raises(FieldguideError, match=f"{field} of resnet50 must be {kind}, got "):
        create_model("resnet50", **{field: value})


@pytest.mark.parametrize("part", ["", "model.safetensors"])
def test_weights_of_a_folder_or_its_file(tmp_path, part):
    trained = create_model("resnet_mini").eval()
    save_model(trained, tmp_path / "model")
    model = create_model("resnet_mini", weights=tmp_path / "model" / part).eval()
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(model(x), trained(x))


def test_a_folder_brings_its_own_config(tmp_path):
    save_model(create_model("resnet_mini", num_classes=3), tmp_path / "model")
    assert create_model("resnet_mini", weights=tmp_path / "model").config.num_classes == 3


def test_weights_of_another_model_or_shape_are_refused(tmp_path):
    save_model(create_model("resnet_mini"), tmp_path / "model")
    with pytest.raises(DamagedFile, match="holds 'resnet_mini', not 'lenet5'"):
        create_model("lenet5", weights=tmp_path / "model")
    with pytest.raises(FieldguideError, match=r"stages.2.0.conv1.conv.weight is \(64, 32, 3, 3\) in the checkpoint"):
        create_model("resnet_mini", weights=tmp_path / "model", widths=(16, 32, 128))
    with pytest.raises(FieldguideError, match=r"there are no weights at .*nowhere"):
        create_model("resnet_mini", weights=tmp_path / "nowhere")


def test_weights_of_a_folder_for_other_classes_and_channels(tmp_path):
    trained = create_model("resnet_mini", stem_width=8)
    save_model(trained, tmp_path / "model")
    model = create_model("resnet_mini", weights=tmp_path / "model", num_classes=3, in_channels=3)
    assert (model.config.stem_width, model.head.out_features) == (8, 3)
    assert torch.equal(model.stages[2][0].conv1.conv.weight, trained.stages[2][0].conv1.conv.weight)
    torch.testing.assert_close(model.stem.conv.weight.sum(1), trained.stem.conv.weight.sum(1))


def test_public_weights_with_and_without_another_head(tmp_path):
    public = torchvision.models.resnet18(weights=None).eval()
    torch.save(public.state_dict(), tmp_path / "resnet18.pth")
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(create_model("resnet18", weights=tmp_path / "resnet18.pth").eval()(x), public(x))
    adapted = create_model("resnet18", weights=public.state_dict(), num_classes=7, in_channels=1).eval()
    assert adapted(x[:, :1]).shape == (2, 7)
    torch.testing.assert_close(adapted.stages[0][0].conv1.conv.weight, public.layer1[0].conv1.weight)
