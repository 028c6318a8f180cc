"""Feed-forward layers against their equations."""

import pytest
import torch
from torch import nn

from fieldguide.blocks.feedforward import FeedForward, GatedFeedForward


def sigmoid(x):
    return 1 / (1 + (-x).exp())


PLAIN = {
    "relu": (nn.ReLU(), lambda x: x.clamp(min=0)),
    "gelu": (None, lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2),
}
GATED = {
    "swiglu": (None, lambda x: x * sigmoid(x)),
    "geglu": (nn.GELU(), lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2),
    "reglu": (nn.ReLU(), lambda x: x.clamp(min=0)),
    "glu": (nn.Sigmoid(), sigmoid),
    "bilinear": (nn.Identity(), lambda x: x),
}


@pytest.mark.parametrize("kind", PLAIN)
def test_plain(kind):
    activation, equation = PLAIN[kind]
    layer = FeedForward(6, 10, activation=activation).double()
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    w1, b1, w2, b2 = layer.expand.weight, layer.expand.bias, layer.contract.weight, layer.contract.bias
    torch.testing.assert_close(layer(x), equation(x @ w1.T + b1) @ w2.T + b2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", GATED)
def test_gated(kind):
    activation, equation = GATED[kind]
    layer = GatedFeedForward(6, 10, activation=activation).double()
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    w, v, w2 = layer.gate.weight, layer.expand.weight, layer.contract.weight
    torch.testing.assert_close(layer(x), (equation(x @ w.T) * (x @ v.T)) @ w2.T, rtol=0, atol=1e-12)
    assert len(list(layer.parameters())) == 3, "no biases, as in the paper"


def test_two_thirds_of_the_width_has_as_many_weights():
    count = [sum(p.numel() for p in m.parameters()) for m in (FeedForward(8, 24, bias=False), GatedFeedForward(8, 16))]
    assert count[0] == count[1]


@pytest.mark.parametrize("kind", [FeedForward, GatedFeedForward])
def test_dropout_acts_on_hidden_units_in_training_only(kind):
    torch.manual_seed(0)
    layer, x = kind(6, 1000, dropout=0.5), torch.randn(1, 6)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_default_activations_are_not_shared_between_layers():
    assert FeedForward(2, 2).activation is not FeedForward(2, 2).activation
