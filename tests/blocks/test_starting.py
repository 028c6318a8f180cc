"""The first values of weights."""

import pytest
import torch
from torch import nn

from fieldguide.blocks.starting import small_normal


def test_matrices_are_small_biases_zero_and_norms_untouched():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(500, 64), nn.Linear(64, 500), nn.Linear(64, 500, bias=False), nn.LayerNorm(64))
    model.apply(small_normal)
    for layer in model[:3]:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not model[1].bias.any()
    assert model[3].weight.eq(1).all()
