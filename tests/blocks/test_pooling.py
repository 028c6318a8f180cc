"""Pooling to one vector."""

import pytest
import torch

from fieldguide.blocks.pooling import AtLeast, FirstToken, GlobalAverage, MeanToken


@pytest.mark.parametrize("spatial", [(7,), (5, 6), (2, 3, 4)])
def test_global_average_is_the_mean_over_positions(spatial):
    x = torch.randn(2, 3, *spatial, dtype=torch.float64)
    torch.testing.assert_close(GlobalAverage()(x), x.mean(tuple(range(2, x.ndim))))


def test_at_least_repeats_what_is_too_small_and_leaves_the_rest():
    x = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert torch.equal(AtLeast(4)(x)[0, 0, :, :3], torch.tensor([[0.0, 0, 1], [0, 0, 1], [3, 3, 4], [3, 3, 4]]))
    assert AtLeast(3)(x).shape == (1, 1, 3, 3)
    assert torch.equal(AtLeast(2)(x), x)


def test_first_token():
    x = torch.randn(2, 5, 3)
    assert torch.equal(FirstToken()(x), x[:, 0])


def test_mean_token_ignores_padding_even_when_it_is_not_finite():
    x, keep = torch.randn(3, 5, 4), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    x[1, 2:] = float("nan")
    y = MeanToken()(x, keep)
    torch.testing.assert_close(y[0], x[0].mean(0))
    torch.testing.assert_close(y[1], x[1, :2].mean(0))
    assert torch.equal(y[2], torch.zeros(4))
    torch.testing.assert_close(MeanToken()(x[:1]), x[:1].mean(1))
