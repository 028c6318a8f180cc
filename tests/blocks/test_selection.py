"""Patterns pick what their words say, in any module."""

import pytest
from torch import nn

from fieldguide.blocks.selection import matching, select, selected_parameters
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model

LAYERS = ["layers.0.query", "layers.1.query", "layers.10.query", "layers.10.norm", "layers10"]
NAMES = ["stem", "stem.conv", *LAYERS, "head"]


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("*", NAMES),
        ("stem", ["stem", "stem.conv"]),
        ("stem.*", ["stem.conv"]),
        ("st", []),
        ("stem | head", ["stem", "stem.conv", "head"]),
        ("layers.1", ["layers.1.query"]),
        ("layers.0-1", ["layers.0.query", "layers.1.query"]),
        ("layers.1-99.query", ["layers.1.query", "layers.10.query"]),
        ("layers.5-1", []),
        ("layers.0-999999999999", LAYERS[:-1]),
        ("*.query", LAYERS[:3]),
        ("layers.?", ["layers.0.query", "layers.1.query"]),
        ("layers.[!0].*", ["layers.1.query"]),
        ("*[0-9]", LAYERS),
        ("Stem", []),
        ("", []),
    ],
)
def test_the_language(pattern: str, chosen: list[str]) -> None:
    assert matching(NAMES, pattern) == set(chosen)


def test_ranges_may_be_anywhere() -> None:
    blocks = [f"stages.{i}.{j}" for i in range(3) for j in range(3)]
    assert matching(blocks, "stages.0-1.1-2") == {"stages.0.1", "stages.0.2", "stages.1.1", "stages.1.2"}


def test_modules_by_kind_and_parameters_in_the_models_order() -> None:
    model = create_model("vit_mini")
    linear = select(model, "*.value|encoder.layers.2.attention", nn.Linear)
    layers = [(0, "value"), (1, "value"), *((2, part) for part in ("query", "key", "value", "output")), (3, "value")]
    assert list(linear) == [f"encoder.layers.{i}.attention.{part}" for i, part in layers]
    assert all(linear[name] is model.get_submodule(name) for name in linear)
    assert list(selected_parameters(model, "head|class_token")) == ["class_token", "head.weight", "head.bias"]
    assert select(model, "*")[""] is model


def test_what_is_shared_has_all_its_names() -> None:
    model = nn.ModuleDict({"tokens": nn.Embedding(3, 4), "head": nn.Linear(4, 3, bias=False)})
    model["head"].weight = model["tokens"].weight
    assert list(selected_parameters(model, "head")) == ["head.weight"]
    model["twin"] = model["head"]
    assert list(select(model, "twin")) == ["twin"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("stages.1|sten", r"^'sten' selects no parameter of ResNet; did you mean 'stem'\? \(names begin with stem, "),
        ("*.wieght", r"'\*\.wieght' selects .*; did you mean '\*\.weight'\?"),
        ("stages.3-7", r"'stages\.3-7' selects no parameter"),
        ("stem|", r"^'' selects no parameter of ResNet \(names begin with stem, stages, head\)$"),
    ],
)
def test_every_alternative_must_select_something(pattern: str, message: str) -> None:
    with pytest.raises(FieldguideError, match=message):
        selected_parameters(create_model("resnet_mini"), pattern)


def test_nothing_of_this_kind() -> None:
    with pytest.raises(FieldguideError, match=r"'\*' selects no LayerNorm or RMSNorm of Linear \(there are none\)"):
        select(nn.Linear(2, 2), "*", nn.LayerNorm, nn.RMSNorm)
