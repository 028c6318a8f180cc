"""Position tables on other grids, for any h × w → h' × w'."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from fieldguide.weights.adapt import Wanted, class_token_and_grid, first_rows, offsets, resize_grid, vocabulary

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


@given(SIDES, SIDES, SIDES, SIDES)
def test_the_class_token_stays_and_the_grid_is_the_told_one(height, width, new_height, new_width):
    positions, values = torch.randn(1 + height * width, 4), torch.empty(1 + new_height * new_width, 4)
    size, new_size = (height, width), (new_height, new_width)
    resized = class_token_and_grid(positions, Wanted(values=values, grid=new_size, their_grid=size))
    assert torch.equal(resized[0], positions[0])
    assert torch.equal(resized[1:], resize_grid(positions[1:], size, new_size))
    square = torch.randn(1 + height**2, 4)  # unless told, a grid is a square
    resized = class_token_and_grid(square, Wanted(values=values, grid=new_size))
    assert torch.equal(resized[1:], resize_grid(square[1:], (height, height), new_size))


@given(SIDES, SIDES)
def test_height_and_width_are_not_mixed_up(height, width):
    """Rows that differ from each other and columns that do not: so they stay, whatever the new sides."""
    rows = torch.linspace(-1, 1, height).repeat_interleave(width)[:, None]
    resized = resize_grid(rows, (height, width), (5, 3)).view(5, 3)
    torch.testing.assert_close(resized, resized[:, :1].expand(5, 3), **EXACT)
    assert height == 1 or resized[0, 0] < resized[4, 0]


@given(SIDES, SIDES, st.integers(2, 12), st.integers(2, 12))
def test_equals_timm(height, width, new_height, new_width):
    resample = pytest.importorskip("timm.layers").resample_abs_pos_embed
    positions = torch.randn(1 + height * width, 3)
    expected = resample(positions[None], (new_height, new_width), (height, width), num_prefix_tokens=1)[0]
    wanted = Wanted(values=torch.empty_like(expected), grid=(new_height, new_width), their_grid=(height, width))
    torch.testing.assert_close(class_token_and_grid(positions, wanted), expected, **EXACT)


@pytest.mark.parametrize("shape", [(17, 5), (16, 4), (1, 4)])
def test_what_is_no_square_with_a_class_token_is_left_alone(shape):
    assert class_token_and_grid(torch.randn(10, 4), Wanted(values=torch.empty(shape))) is None
    assert class_token_and_grid(torch.randn(10, 4), Wanted(values=torch.empty(17, 4), their_grid=(2, 4))) is None


@pytest.mark.parametrize(("window", "new_window"), [(7, 12), (7, 7), (4, 3), (8, 1)])
def test_offsets_of_a_window_keep_their_middle_and_their_symmetry(window, new_window):
    side, new_side = 2 * window - 1, 2 * new_window - 1
    away = (torch.arange(side) - window + 1).abs()
    table = -(away[:, None] + away[None]).reshape(-1, 1).expand(-1, 3).float()
    resized = offsets(table, Wanted(values=torch.empty(new_side**2, 3))).view(new_side, new_side, 3)
    torch.testing.assert_close(resized, resized.flip(0, 1), **EXACT)
    torch.testing.assert_close(resized, resized.transpose(0, 1), **EXACT)
    assert resized.flatten(0, 1)[:, 0].argmax() == new_side**2 // 2, "the same pixel"
    assert new_window != window or torch.equal(resized.flatten(0, 1), table)
    assert offsets(table, Wanted(values=torch.empty(new_side**2, 4))) is None


@given(SIDES, SIDES, st.sampled_from([(), (3,)]))
def test_rows_are_kept_and_new_ones_are_the_mean_or_the_models_own(length, new_length, rest):
    theirs, ours = torch.randn(length, *rest, dtype=torch.float64), torch.randn(new_length, *rest)
    both, wanted = min(length, new_length), Wanted(values=ours)
    tokens, places = vocabulary(theirs, wanted), first_rows(theirs, wanted)
    assert tokens.shape == places.shape == ours.shape
    assert torch.equal(tokens[:both], theirs[:both])
    assert torch.equal(places[:both], theirs[:both])
    torch.testing.assert_close(tokens[both:], theirs.mean(0).expand(new_length - both, *rest), rtol=0, atol=1e-12)
    assert torch.equal(places[both:], ours[both:].double())


@pytest.mark.parametrize("change", [vocabulary, first_rows])
def test_another_width_is_not_made_to_fit(change):
    assert change(torch.randn(6, 4), Wanted(values=torch.empty(6, 5))) is None
    assert change(torch.randn(6, 4), Wanted(values=torch.empty(6))) is None
