"""Patches: a linear projection of squares cut row by row."""

import pytest
import torch

from fieldguide.blocks.patches import PatchEmbedding
from fieldguide.errors import FieldguideError


def test_equals_cutting_flattening_and_projecting():
    patches = PatchEmbedding(12, 4, in_channels=3, d_model=10).double()
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64)
    cut = [x[:, :, i : i + 4, j : j + 4].flatten(1) for i in (0, 4, 8) for j in (0, 4, 8)]
    weight, bias = patches.projection.weight.flatten(1), patches.projection.bias
    torch.testing.assert_close(patches(x), torch.stack(cut, 1) @ weight.T + bias, rtol=0, atol=1e-12)
    assert patches.num_patches == 9


def test_sizes_that_do_not_fit_are_named_with_a_fix():
    with pytest.raises(FieldguideError, match=r"PatchEmbedding: image_size=30 .* patch_size=16; use image_size=32"):
        PatchEmbedding(30, 16, in_channels=3, d_model=8)
    patches = PatchEmbedding(32, 16, in_channels=3, d_model=8)
    for wrong in [(2, 3, 48, 48), (2, 1, 32, 32), (2, 3, 32, 16)]:
        with pytest.raises(FieldguideError, match=r"takes images \(batch, 3, 32, 32\), got \(2, "):
            patches(torch.zeros(wrong))
