"""Metrics as they are often written down, beside ours: where the short formula says something else."""

import pytest
import torch
from sklearn.metrics import precision_recall_fscore_support, r2_score
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.metrics import ClassificationMetrics, RegressionMetrics, confusion_matrix, per_class


def short_r2(predicted, targets):
    residual, total = (targets - predicted).square().sum(), (targets - targets.mean()).square().sum()
    return 1 - residual / (total + 1e-8)


def ours(predicted, targets):
    metrics = RegressionMetrics(lambda model, batch: batch)
    metrics.add(predicted, targets)
    return metrics.compute()["r2"]


def test_r2_of_a_constant_target():
    targets = torch.full((5,), 3.0, dtype=torch.float64)
    predicted = targets + 0.1
    assert short_r2(predicted, targets) < -1e6
    assert ours(predicted, targets) == r2_score(targets, predicted) == 0.0


def test_r2_of_targets_of_different_size():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(50, 2, dtype=torch.float64, generator=generator) * torch.tensor([1000.0, 1.0])
    predicted = targets + torch.randn(50, 2, dtype=torch.float64, generator=generator) * 0.8
    assert short_r2(predicted, targets) > 0.9999, "the large target hides the small one"
    assert ours(predicted, targets) == pytest.approx(r2_score(targets, predicted))
    assert ours(predicted, targets) < 0.9


def test_r2_of_a_column_and_a_vector():
    targets = torch.arange(4.0)
    assert (targets - targets[:, None]).shape == (4, 4)
    assert short_r2(targets[:, None], targets) < 0, "although every prediction is right"
    with pytest.raises(FieldguideError, match=r"predictions \(4, 1\) and targets \(4,\) must have one shape"):
        ours(targets[:, None], targets)


def test_accuracy_of_logits():
    logits, labels = 5 * torch.eye(3), torch.arange(3)
    assert (logits == labels).float().mean() < 1, "nine comparisons of a logit with a label"
    metrics = ClassificationMetrics()
    metrics.update(nn.Identity(), (logits, labels))
    assert metrics.compute()["accuracy"] == 1


def test_precision_and_recall_class_by_class_are_right():
    labels, predicted = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 0])
    loop = []
    for c in range(4):
        hit = ((predicted == c) & (labels == c)).sum()
        loop.append((hit / ((predicted == c).sum() + 1e-8), hit / ((labels == c).sum() + 1e-8)))
    figures = per_class(confusion_matrix(predicted, labels, 4))
    theirs = precision_recall_fscore_support(labels, predicted, labels=range(4), zero_division=0)
    precision, recall = torch.tensor(loop).T
    assert figures["precision"].tolist() == pytest.approx(precision.tolist())
    assert figures["recall"].tolist() == pytest.approx(recall.tolist())
    assert figures["f1"].tolist() == pytest.approx(theirs[2].tolist())
