import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from fieldguide.errors import FieldguideError
from fieldguide.metrics import reliability


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 200), st.integers(1, 20))
def test_the_error_is_that_of_torchmetrics(seed, classes, n, bins):
    rng = np.random.default_rng(seed)
    chances = torch.tensor(rng.normal(size=(n, classes)) * 3).softmax(1)
    labels = torch.tensor(rng.integers(0, classes, n))
    probability, predicted = chances.max(1)
    ours = reliability(probability, predicted == labels, bins)
    assert ours.count.sum() == n
    assert ours.error == pytest.approx(
        multiclass_calibration_error(chances, labels, classes, n_bins=bins).item(), abs=1e-6
    )


def test_bins_by_hand():
    probability = torch.tensor([0.1, 0.5, 0.55, 1.0], dtype=torch.float64)
    found = reliability(probability, torch.tensor([False, True, False, True]), bins=2)
    assert found.count.tolist() == [1, 3]  # 0.5 is of the upper half
    assert found.confidence.tolist() == pytest.approx([0.1, (0.5 + 0.55 + 1) / 3])
    assert found.accuracy.tolist() == pytest.approx([0, 2 / 3])
    assert found.error == pytest.approx((0.1 + abs(2.05 - 2)) / 4)


def test_a_classifier_that_says_what_is_true_has_no_error():
    probability = torch.rand(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    right = torch.rand(200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) < probability
    assert reliability(probability, right).error < 0.005
    assert reliability(probability, ~right).error > 0.4
    assert reliability(probability, right).error == pytest.approx(
        binary_calibration_error(probability, right.long(), n_bins=15).item(), abs=1e-6
    )


@pytest.mark.parametrize(
    ("probability", "right", "message"),
    [
        (torch.zeros(3), torch.zeros(3, 1), "two equal vectors"),
        (torch.zeros(0), torch.zeros(0), "two equal vectors"),
        (torch.tensor([0.5, 1.5]), torch.ones(2), "softmax"),
        (torch.tensor([0.5, torch.nan]), torch.ones(2), "outside 0 … 1"),
    ],
)
def test_what_is_no_probability_is_refused(probability, right, message):
    with pytest.raises(FieldguideError, match=message):
        reliability(probability, right)
