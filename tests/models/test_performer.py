"""Performer: how near it is to softmax attention, and what drawing features anew does."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from fieldguide.blocks.cores import Softmax
from fieldguide.blocks.swapping import swap_attention
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model

TOKENS = torch.randint(256, (2, 24), generator=torch.Generator().manual_seed(0))


def mini(**overrides) -> nn.Module:
    torch.manual_seed(0)
    model = create_model("performer_mini", **overrides).double().eval()
    for layer in model.encoder.layers:  # scores of about 0.4, values that matter
        for part in (layer.attention.query, layer.attention.key, layer.attention.value):
            nn.init.normal_(part.weight, std=0.08)
    return model


def exact(model: nn.Module) -> torch.Tensor:
    twin = deepcopy(model)
    swap_attention(twin, Softmax())
    return twin(TOKENS)


@torch.no_grad()
def outputs(model: nn.Module, draws: int) -> torch.Tensor:
    def draw() -> torch.Tensor:
        model.redraw()
        return model(TOKENS)

    return torch.stack([draw() for _ in range(draws)])


def rms(x: torch.Tensor) -> float:
    return x.square().mean().sqrt().item()


def test_the_error_falls_with_the_number_of_features():
    errors = []
    for features in (16, 128, 1024):
        model = mini(features=features)
        errors.append(rms(outputs(model, 4) - exact(model)))
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]


def test_redrawing_changes_the_estimate_but_not_what_is_estimated():
    model = mini(features=256)
    expected, drawn = exact(model), outputs(model, 64)
    single = rms(drawn - expected)
    assert rms(drawn[0] - drawn[1]) > 0.5 * single
    assert rms(drawn.mean(0) - expected) < single / 3
    projections = [layer.attention.core.projection for layer in model.encoder.layers]
    assert not torch.equal(*projections), "every layer has its own"


def test_features_are_saved_with_the_weights():
    names = {name for name in mini().state_dict() if "core" in name}
    assert names == {f"encoder.layers.{i}.attention.core.projection" for i in (0, 1)}


def test_length_is_limited_by_positions_only():
    with pytest.raises(FieldguideError, match=r"129 tokens but max_len=128"):
        mini()(torch.zeros(1, 129, dtype=torch.long))
    assert mini(max_len=3000)(torch.zeros(1, 3000, dtype=torch.long)).shape == (1, 3000, 64)


@pytest.mark.parametrize(
    ("head", "shape"), [("encode", (2, 24, 64)), ("masked_lm", (2, 24, 256)), ("classify", (2, 3))]
)
def test_heads(head, shape):
    assert mini(head=head, num_classes=3)(TOKENS).shape == shape
