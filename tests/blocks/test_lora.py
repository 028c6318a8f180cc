"""Adapters change nothing at first, learn alone, follow eq. 3, and fold into the weights without a trace."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fieldguide.blocks.conv import SameConv2d
from fieldguide.blocks.freezing import unfreeze
from fieldguide.blocks.lora import has_adapters, lora, merge_lora
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model, load_model, save_model
from fieldguide.optim import build_optimizer, parameter_groups

EXACT = {"rtol": 0, "atol": 1e-12}
LAYERS = {
    "linear": (partial(nn.Linear, 12, 7), (5, 3, 12)),
    "no bias": (partial(nn.Linear, 12, 7, bias=False), (5, 12)),
    "conv": (partial(nn.Conv2d, 6, 8, 3, stride=2, padding=1, padding_mode="reflect"), (2, 6, 9, 10)),
    "oblong": (partial(nn.Conv2d, 6, 8, (3, 1), dilation=2, padding=(1, 0)), (2, 6, 9, 10)),
    "grouped": (partial(nn.Conv2d, 6, 8, 3, groups=2), (2, 6, 9, 10)),
    "depthwise": (partial(nn.Conv2d, 6, 12, 3, groups=6), (2, 6, 9, 10)),
    "same": (partial(SameConv2d, 6, 8, 3, stride=2), (2, 6, 9, 10)),
}


def stirred(model: nn.Module) -> nn.Module:
    """With adapters that do something."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".up." in name:
                parameter.normal_()
    return model


@pytest.mark.parametrize(("build", "shape"), LAYERS.values(), ids=LAYERS)
def test_nothing_changes_at_first_and_merging_is_exact(build, shape) -> None:
    model, x = nn.Sequential(build()).double(), torch.randn(shape, dtype=torch.float64)
    before, kind, names = model(x), type(model[0]), list(model.state_dict())
    assert lora(model, "*", rank=3, alpha=5.0) == ("0",)
    assert torch.equal(model(x), before)
    assert isinstance(model[0], kind)
    assert {"0.down.weight", "0.up.weight"} == {name for name, p in model.named_parameters() if p.requires_grad}
    adapted = stirred(model)(x)
    assert not torch.allclose(adapted, before, atol=0.1)
    assert has_adapters(model)
    assert merge_lora(model) == ("0",)
    torch.testing.assert_close(model(x), adapted, **EXACT)
    assert type(model[0]) is kind
    assert list(model.state_dict()) == names
    assert not has_adapters(model)
    assert merge_lora(model) == ()


def test_is_equation_three() -> None:
    layer, x = nn.Sequential(nn.Linear(12, 7)).double(), torch.randn(4, 12, dtype=torch.float64)
    w, b = layer[0].weight.detach().clone(), layer[0].bias.detach().clone()
    lora(layer, "0", rank=2, alpha=6.0)
    a, b_up = layer[0].down.weight, stirred(layer)[0].up.weight
    assert (a.shape, b_up.shape) == ((2, 12), (7, 2))
    torch.testing.assert_close(layer(x), x @ w.T + b + 6.0 / 2 * x @ a.T @ b_up.T, **EXACT)


def test_rank_counts_in_each_group_and_is_cut_to_the_layers_own() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 3, groups=2), nn.Linear(9, 3))
    lora(model, "*", rank=4)
    assert [tuple(layer.down.weight.shape) for layer in model] == [(8, 1, 3, 3), (6, 4, 3, 3), (3, 9)]
    assert [tuple(layer.up.weight.shape) for layer in model] == [(8, 1, 1, 1), (6, 3, 1, 1), (3, 3)]


def test_dropout_is_on_the_adapters_path_only() -> None:
    model, x = nn.Sequential(nn.Linear(12, 7)).eval(), torch.randn(4, 12)
    expected = model(x)
    lora(model, "*", dropout=0.5)
    assert not model[0].dropout.training
    assert torch.equal(model.train()(x), expected)
    stirred(model)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize(
    ("name", "pattern", "shape"),
    [
        ("vit_mini", "*.query|*.value", (8, 1, 32, 32)),
        ("resnet_mini", "stages", (8, 1, 16, 16)),
        ("mobilenet_mini", "*", (8, 1, 32, 32)),
        ("vit_mini", "*", (8, 1, 32, 32)),
    ],
)
def test_a_network_trains_saves_and_exports(name, pattern, shape, tmp_path) -> None:
    model, images = create_model(name), torch.randn(shape)
    expected = model.eval()(images)
    adapted = lora(model, pattern, rank=2)
    assert torch.equal(model(images), expected)
    unfreeze(model, "head")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = build_optimizer(model)
    for _ in range(3):  # A has a gradient only when B is no longer zero
        cross_entropy(model.train()(images), torch.arange(8) % 10).backward()
        optimizer.step()
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    heads = {name for name in before if name.startswith("head.")}
    assert moved == heads | {f"{layer}.{part}.weight" for layer in adapted for part in ("down", "up")}
    with pytest.raises(FieldguideError, match=r"merge_lora\(model\) first"):
        save_model(model, tmp_path / "model")
    program = torch.export.export(model.eval(), (images,))
    torch.testing.assert_close(program.module()(images), model(images), rtol=1e-5, atol=1e-5)
    merge_lora(model)
    save_model(model, tmp_path / "model")
    assert torch.equal(load_model(tmp_path / "model")(images), model(images))


def test_adapters_are_decayed_matrices_of_the_layer_that_they_adapt() -> None:
    model = create_model("vit_mini")
    lora(model, "*.query|*.value")
    groups = parameter_groups(model, 0.1, layer_decay=0.5)
    assert {group["group"] for group in groups} == {"decay"}
    scales = {name: group["lr_scale"] for group in groups for name, _ in group["params"]}
    assert scales["encoder.layers.3.attention.query.up.weight"] == 0.5
    assert scales["encoder.layers.0.attention.value.down.weight"] == 0.5**4
    build_optimizer(model)


def test_a_module_in_two_places_is_adapted_once_and_a_shared_weight_is_not_changed() -> None:
    shared, tokens = nn.Linear(4, 4), nn.Embedding(6, 4)
    model = nn.ModuleDict({"tokens": tokens, "a": shared, "b": shared, "head": nn.Linear(4, 6, bias=False)})
    model["head"].weight = tokens.weight
    table, x = tokens.weight.detach().clone(), torch.randn(3, 4)
    lora(model, "a|b|head", rank=2)
    expected = [model[name](x) for name in ("a", "head")] if stirred(model) else None
    assert model["a"] is model["b"]
    merge_lora(model)
    for name, y in zip(("a", "head"), expected, strict=True):
        torch.testing.assert_close(model[name](x), y, rtol=1e-5, atol=1e-5)
    assert torch.equal(tokens.weight, table)


def test_type_device_and_copies() -> None:
    with torch.device("meta"):
        model = create_model("resnet18").bfloat16()
    lora(model, "stages")
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}
    model = nn.Sequential(nn.Linear(4, 4))
    lora(model, "0", rank=2)
    twin = stirred(copy.deepcopy(model))
    assert not torch.equal(twin[0].up.weight, model[0].up.weight)


def test_refusals() -> None:
    model = create_model("vit_mini")
    with pytest.raises(
        FieldguideError, match=r"'\*\.quary' selects no Linear or Conv2d of ViT; did you mean '\*\.query'"
    ):
        lora(model, "*.quary")
    with pytest.raises(FieldguideError, match="rank=0 must be at least 1"):
        lora(model, "*", rank=0)
    with pytest.raises(FieldguideError, match=r"dropout=1\.0 at least 0 and below 1"):
        lora(model, "*", dropout=1.0)
    with pytest.raises(FieldguideError, match=r"out_proj is a NonDynamicallyQuantizableLinear.*; leave it out"):
        lora(nn.MultiheadAttention(8, 2), "*")
    assert all(parameter.requires_grad for parameter in model.parameters())
    lora(model, "*.query")
    with pytest.raises(FieldguideError, match=r"adapters already; fold them in with merge_lora"):
        lora(model, "*.value")
