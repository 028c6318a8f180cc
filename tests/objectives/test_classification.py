import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fieldguide.objectives import Classification


def _batch(seed=0, b=6, classes=4):
    torch.manual_seed(seed)
    return torch.randn(b, classes, dtype=torch.float64), torch.randint(classes, (b,))


@given(st.integers(0, 1000), st.floats(0, 0.9))
def test_loss_is_its_equation(seed, epsilon):
    logits, labels = _batch(seed)
    (phase,) = Classification(epsilon).step(nn.Identity(), (logits, labels))
    target = (1 - epsilon) * nn.functional.one_hot(labels, 4).double() + epsilon / 4
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    assert phase.loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert phase.parameters == "model"


def test_mixed_targets():
    logits, labels = _batch()
    shares = torch.softmax(torch.randn(6, 4, dtype=torch.float64), 1)
    (phase,) = Classification().step(nn.Identity(), (logits, shares))
    assert phase.loss.item() == pytest.approx(-(shares * logits.log_softmax(1)).sum(1).mean().item(), abs=1e-12)
    hard = nn.functional.one_hot(labels, 4).double()
    (as_shares,) = Classification(0.1).step(nn.Identity(), (logits, hard))
    (as_labels,) = Classification(0.1).step(nn.Identity(), (logits, labels))
    assert as_shares.loss.item() == pytest.approx(as_labels.loss.item(), abs=1e-12)


def test_weight_counts_samples():
    assert Classification().weight(_batch(b=5)) == 5
