"""Residual wrappers: where the norm sits, and what a branch passes."""

import pytest
import torch
from torch import nn

from fieldguide.blocks.residual import LayerScale, PostNorm, PreNorm, Sandwich, StochasticDepth
from fieldguide.errors import FieldguideError


@pytest.fixture
def parts():
    torch.manual_seed(0)
    return nn.Linear(6, 6).double(), nn.LayerNorm(6).double(), torch.randn(3, 5, 6, dtype=torch.float64)


def normalised(x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


def test_each_wrapper_is_its_equation(parts):
    f, norm, x = parts
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(PreNorm(f, norm)(x), x + f(normalised(x)), **close)
    torch.testing.assert_close(PostNorm(f, norm)(x), normalised(x + f(x)), **close)
    sandwich = Sandwich(f, norm, nn.LayerNorm(6).double())
    torch.testing.assert_close(sandwich(x), x + normalised(f(normalised(x))), **close)


def test_pre_norm_is_not_a_norm_of_the_sum(parts):
    """``LN(x + f(x))`` under the name pre-norm is the usual mistake: its output has unit scale, this one keeps x's."""
    f, norm, x = parts
    assert PreNorm(f, norm)(100 * x).std() > 50
    assert PostNorm(f, norm)(100 * x).std() < 1.1


def test_a_branch_acts_on_the_sublayer_and_never_on_the_shortcut(parts):
    f, norm, x = parts
    nothing = LayerScale(6, init=0.0).double()
    assert torch.equal(PreNorm(f, norm, nothing)(x), x)
    assert torch.equal(Sandwich(f, norm, nn.Identity(), nothing)(x), x)
    assert torch.equal(PostNorm(f, norm, nothing)(x), norm(x))


def test_layer_scale_scales_channels():
    scale = LayerScale(4, init=0.5)
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(scale(x), x / 2)
    scale(x).sum().backward()
    torch.testing.assert_close(scale.scale.grad, x.sum((0, 1)))


def test_stochastic_depth_drops_whole_samples_and_keeps_the_expectation():
    torch.manual_seed(0)
    y = StochasticDepth(0.25)(torch.ones(20_000, 2, 3)).flatten(1)
    torch.testing.assert_close(y.unique(), torch.tensor([0, 4 / 3]))
    assert torch.equal(y.amin(1), y.amax(1)), "a sample is dropped as a whole"
    assert (y[:, 0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert y.mean().item() == pytest.approx(1, abs=0.02)


def test_stochastic_depth_is_the_identity_outside_training():
    x = torch.randn(8, 3)
    assert StochasticDepth(0.9).eval()(x) is x
    assert StochasticDepth(0.0)(x) is x


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(FieldguideError, match="StochasticDepth: rate"):
        StochasticDepth(rate)
