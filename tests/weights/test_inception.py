"""Inception's public files hold auxiliary heads or not, and so do models; all four pairs are in use."""

import pytest
import torch
from torchvision.models import get_model

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.weights import export_weights, load_weights


def file(name: str, aux_logits: bool, num_classes: int = 1000):
    model = get_model(name, weights=None, init_weights=False, aux_logits=aux_logits, num_classes=num_classes)
    return model.state_dict()


each = pytest.mark.parametrize("name", ["googlenet", "inception_v3"])


@each
def test_a_file_without_auxiliary_heads_leaves_the_models_own(name):
    model = create_model(name)
    before = {key: tensor.clone() for key, tensor in model.auxiliary.state_dict().items()}
    theirs = file(name, aux_logits=False)
    report = load_weights(model, theirs)
    assert {key.split(".")[0] for key in report.kept} == {"auxiliary"}
    assert set(report.kept.values()) == {"the file has no auxiliary heads, which only training uses"}
    for key, tensor in model.auxiliary.state_dict().items():
        assert torch.equal(tensor, before[key])
    assert torch.equal(model.head.weight, theirs["fc.weight"])


@each
def test_a_file_with_auxiliary_heads_fits_a_model_without_when_that_is_allowed(name):
    theirs = file(name, aux_logits=True)
    model = create_model(name, auxiliary=False)
    with pytest.raises(FieldguideError, match=r"surplus.*pass strict=False"):
        load_weights(model, theirs)
    report = load_weights(model, theirs, strict=False)
    assert {key.split(".")[0] for key in report.ignored} <= {"aux1", "aux2", "AuxLogits"}
    exported = export_weights(model)
    assert exported.keys() == {key for key in theirs if not key.startswith(("aux", "AuxLogits"))}
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in exported.items())


@each
def test_other_classes_and_channels_keep_the_auxiliary_heads_features(name):
    theirs = file(name, aux_logits=True)
    model = create_model(name, weights=theirs, num_classes=5, in_channels=1)
    loaded = export_weights(model)
    for key in theirs.keys() - {"fc.weight", "fc.bias"}:
        if loaded[key].shape == theirs[key].shape:
            assert torch.equal(loaded[key], theirs[key]), key
    changed = {key for key in theirs if loaded[key].shape != theirs[key].shape}
    first = "conv1.conv.weight" if name == "googlenet" else "Conv2d_1a_3x3.conv.weight"
    heads = {"aux1.fc2", "aux2.fc2"} if name == "googlenet" else {"AuxLogits.fc"}
    assert changed == {first, *(f"{head}.{part}" for head in {*heads, "fc"} for part in ("weight", "bias"))}
    assert torch.equal(loaded[first], theirs[first].sum(1, keepdim=True))


def test_a_file_of_the_other_network_is_named():
    with pytest.raises(FieldguideError, match="it looks like inception_v3 in torchvision layout"):
        load_weights(create_model("googlenet"), file("inception_v3", aux_logits=True))


@pytest.mark.parametrize("aux_logits", [False, True])
def test_timm_has_torchvisions_names(aux_logits):
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("inception_v3", pretrained=False, aux_logits=aux_logits).state_dict()
    model = create_model("inception_v3", auxiliary=aux_logits)
    assert load_weights(model, theirs, layout="timm").layout == "timm"
    exported = export_weights(model, "timm")
    assert exported.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in exported.items())
