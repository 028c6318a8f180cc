"""Position tables on other grids, for any h × w → h' × w'."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from fieldguide.weights.adapt import class_token_and_grid, resize_grid

SIDES = st.integers(1, 12)
EXACT = {"rtol": 0, "atol": 1e-5}
"""Interpolation is done in float32."""


def grid(height: int, width: int) -> torch.Tensor:
    return torch.randn(height * width, 3)


@given(SIDES, SIDES)
def test_the_same_size_is_the_identity(height, width):
    positions = grid(height, width)
    assert torch.equal(resize_grid(positions, (height, width), (height, width)), positions)


@given(SIDES, SIDES, SIDES, SIDES)
def test_a_constant_stays_constant(height, width, new_height, new_width):
    positions = torch.tensor([1.5, -2.0, 0.25]).expand(height * width, 3)
    resized = resize_grid(positions, (height, width), (new_height, new_width))
    torch.testing.assert_close(resized, positions[:1].expand(new_height * new_width, 3), **EXACT)


@given(SIDES, SIDES, SIDES, SIDES)
def test_flips_and_transposition_commute_with_resizing(height, width, new_height, new_width):
    size, new_size = (height, width), (new_height, new_width)
    positions = grid(height, width)
    resized = resize_grid(positions, size, new_size).unflatten(0, new_size)
    for axis in (0, 1):
        flipped = positions.unflatten(0, size).flip(axis).flatten(0, 1)
        torch.testing.assert_close(
            resize_grid(flipped, size, new_size).unflatten(0, new_size), resized.flip(axis), **EXACT
        )
    turned = positions.unflatten(0, size).transpose(0, 1).flatten(0, 1)
    other = resize_grid(turned, (width, height), (new_width, new_height)).unflatten(0, (new_width, new_height))
    torch.testing.assert_close(other, resized.transpose(0, 1), **EXACT)


@given(SIDES, SIDES, SIDES, SIDES)
def test_it_is_linear_and_treats_every_feature_by_itself(height, width, new_height, new_width):
    a, b = grid(height, width), grid(height, width)
    resized = [resize_grid(x, (height, width), (new_height, new_width)) for x in (a, b, 2 * a - b)]
    torch.testing.assert_close(2 * resized[0] - resized[1], resized[2], rtol=0, atol=1e-4)
    alone = resize_grid(a[:, :1], (height, width), (new_height, new_width))
    torch.testing.assert_close(resized[0][:, :1], alone, **EXACT)


def test_a_slope_keeps_its_direction():
    slope = torch.arange(8.0).repeat_interleave(5)[:, None]  # grows from row to row only
    resized = resize_grid(slope, (8, 5), (12, 3)).view(12, 3)
    torch.testing.assert_close(resized[:, :1].expand(12, 3), resized)
    assert (resized[1:, 0] > resized[:-1, 0]).all()


@given(SIDES, SIDES, st.integers(2, 12), st.integers(2, 12))
def test_equals_interpolation_in_two_dimensions(height, width, new_height, new_width):
    positions = grid(height, width)
    image = positions.T.reshape(1, 3, height, width)
    expected = interpolate(image, (new_height, new_width), mode="bicubic", antialias=True)[0].flatten(1).T
    torch.testing.assert_close(resize_grid(positions, (height, width), (new_height, new_width)), expected, **EXACT)


@given(SIDES, SIDES)
def test_the_class_token_stays(side, new_side):
    positions = torch.randn(1 + side**2, 4)
    resized = class_token_and_grid(positions, (1 + new_side**2, 4))
    assert torch.equal(resized[0], positions[0])
    assert torch.equal(resized[1:], resize_grid(positions[1:], (side, side), (new_side, new_side)))


@pytest.mark.parametrize("shape", [(17, 5), (16, 4), (1, 4)])
def test_what_is_no_square_with_a_class_token_is_left_alone(shape):
    assert class_token_and_grid(torch.randn(10, 4), shape) is None
