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


class TwoInnerClassifiers(nn.Module):
    auxiliary_weight = 0.3

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(5, 7).double(), nn.Linear(7, 4).double()
        self.inner = nn.ModuleList(nn.Linear(5, 4).double() for _ in range(2))

    def deep_supervision(self, x):
        return self(x), *(classifier(x) for classifier in self.inner)

    def forward(self, x):
        return self.head(self.body(x).relu())


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_auxiliary_classifiers_add_their_weighted_losses_and_learn(epsilon):
    model, x = TwoInnerClassifiers(), torch.randn(6, 5, dtype=torch.float64)
    labels = torch.randint(4, (6,))
    (phase,) = Classification(epsilon).step(model, (x, labels))
    target = (1 - epsilon) * nn.functional.one_hot(labels, 4).double() + epsilon / 4
    main, one, other = (-(target * logits.log_softmax(1)).sum(1).mean() for logits in model.deep_supervision(x))
    assert phase.loss.item() == pytest.approx((main + 0.3 * (one + other)).item(), abs=1e-12)
    phase.loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_without_auxiliary_classifiers_deep_supervision_is_the_plain_loss():
    model, x, labels = TwoInnerClassifiers(), torch.randn(6, 5, dtype=torch.float64), torch.randint(4, (6,))
    model.inner = nn.ModuleList()
    (phase,) = Classification().step(model, (x, labels))
    assert torch.equal(phase.loss, nn.functional.cross_entropy(model(x), labels))


def test_weight_counts_samples():
    assert Classification().weight(_batch(b=5)) == 5
