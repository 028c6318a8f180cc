"""Linformer: full attention where nothing is projected, and what its fixed length means."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from fieldguide.blocks.cores import Linformer, Softmax
from fieldguide.blocks.swapping import swap_attention
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model


def mini(**overrides) -> nn.Module:
    torch.manual_seed(0)
    model = create_model("linformer_mini", **overrides).double().eval()
    for layer in model.encoder.layers:  # scores that matter
        nn.init.normal_(layer.attention.query.weight, std=0.3)
        nn.init.normal_(layer.attention.key.weight, std=0.3)
    return model


def cores(model: nn.Module) -> list[Linformer]:
    return [module for module in model.modules() if isinstance(module, Linformer)]


@pytest.mark.parametrize("projections", ["shared", "separate"])
def test_without_projection_it_is_full_attention(projections):
    model, tokens = mini(max_len=9, slots=9, projections=projections), torch.randint(256, (2, 9))
    full = deepcopy(model)
    swap_attention(full, Softmax())
    assert (model(tokens) - full(tokens)).abs().max() > 1e-3
    for core in cores(model):
        for projection in core.children():
            nn.init.eye_(projection.weight)
    torch.testing.assert_close(model(tokens), full(tokens), rtol=0, atol=1e-10)


def test_projections_are_shared_or_separate():
    shared, separate = mini(), mini(projections="separate")
    sizes = [sum(p.numel() for core in cores(model) for p in core.parameters()) for model in (shared, separate)]
    assert sizes == [2 * 128 * 32, 2 * 2 * 128 * 32]
    assert len({id(p) for core in cores(separate) for p in core.parameters()}) == 4


def test_a_longer_text_is_refused_and_says_what_to_do():
    with pytest.raises(FieldguideError, match=r"129 tokens but max_len=128; shorten .*max_len=129"):
        mini()(torch.zeros(1, 129, dtype=torch.long))
    assert mini(max_len=129)(torch.zeros(1, 129, dtype=torch.long)).shape == (1, 129, 64)


def test_segments_are_refused():
    tokens = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(FieldguideError, match="no segment table"):
        mini()(tokens, segments=tokens)


@pytest.mark.parametrize(("head", "shape"), [("encode", (2, 7, 64)), ("masked_lm", (2, 7, 256)), ("classify", (2, 3))])
def test_heads(head, shape):
    assert mini(head=head, num_classes=3)(torch.randint(256, (2, 7))).shape == shape
