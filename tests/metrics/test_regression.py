import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score, root_mean_squared_error

from fieldguide.errors import FieldguideError
from fieldguide.metrics import RegressionMetrics


def figures(predicted, targets, sizes=None):
    metrics = RegressionMetrics(lambda model, batch: batch)
    for batch in zip(*(tensor.split(sizes or len(targets)) for tensor in (predicted, targets)), strict=True):
        metrics.update(torch.nn.Identity(), batch)
    return metrics.compute()


def by_scikit_learn(predicted, targets):
    wanted, found = targets.numpy(), predicted.numpy()
    return {
        "loss": mean_squared_error(wanted, found),
        "rmse": root_mean_squared_error(wanted, found),
        "mae": mean_absolute_error(wanted, found),
        "r2": r2_score(wanted, found),
    }


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 60),
    st.sampled_from([(), (1,), (3,)]),
    st.sampled_from([1e-6, 1.0, 1e5]),
    st.sampled_from([0.0, 1e4]),
    st.integers(1, 60),
)
def test_equals_scikit_learn_in_batches_of_any_size(seed, n, width, scale, offset, size):
    rng = np.random.default_rng(seed)
    targets = torch.tensor(scale * (offset + rng.normal(size=(n, *width))))
    predicted = targets + torch.tensor(scale * rng.normal(size=(n, *width)))
    expected = by_scikit_learn(predicted, targets)
    assert figures(predicted, targets, size) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(st.floats(-1e6, 1e6), st.integers(2, 9), st.booleans(), st.integers(1, 4))
def test_constant_targets_as_scikit_learn(value, n, perfect, size):
    targets = torch.full((n,), value, dtype=torch.float64)
    predicted = targets if perfect else targets + 1
    found = figures(predicted, targets, size)
    assert found["r2"] == r2_score(targets.numpy(), predicted.numpy()) == float(perfect)


def test_one_constant_target_of_two():
    targets = torch.tensor([[1.0, 5.0], [2.0, 5.0], [4.0, 5.0]])
    predicted = targets + torch.tensor([[0.5, 0.0], [0.0, 1.0], [0.0, 0.0]])
    assert figures(predicted, targets) == pytest.approx(by_scikit_learn(predicted, targets), rel=1e-6)


def test_no_r2_of_a_single_sample():
    assert math.isnan(figures(torch.ones(1), torch.zeros(1))["r2"])


def test_float32_sums_do_not_drift():
    """A million squares of 1e-4 beside one of 1e4: float32 would lose all of them."""
    predicted = torch.full((1_000_000,), 0.01)
    predicted[0] = 100
    expected = (999_999 * 0.01**2 + 100**2) / 1e6
    assert figures(predicted, torch.zeros(1_000_000), 50_000)["loss"] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    ("predicted", "targets"), [((4, 1), (4,)), ((1,), (4,)), ((4, 2), (4, 1)), ((2, 2, 2), (2, 2, 2))]
)
def test_nothing_is_broadcast(predicted, targets):
    with pytest.raises(FieldguideError, match="must have one shape"):
        figures(torch.zeros(predicted), torch.zeros(targets))


def test_class_numbers_are_no_predictions():
    with pytest.raises(FieldguideError, match="real numbers"):
        figures(torch.zeros(3, dtype=torch.long), torch.zeros(3))


def test_nothing_evaluated():
    with pytest.raises(FieldguideError, match="no batch"):
        RegressionMetrics(lambda model, batch: batch).compute()
