import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_recall_fscore_support
from sklearn.metrics import confusion_matrix as sk_confusion
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.metrics import ClassificationMetrics, confusion_matrix, per_class

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(2, 12), st.integers(1, 200))
def test_equals_scikit_learn(seed, classes, n):
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, classes, n), rng.integers(0, classes, n)
    ours = confusion_matrix(torch.tensor(predicted), torch.tensor(labels), classes)
    assert np.array_equal(ours, sk_confusion(labels, predicted, labels=range(classes)))
    theirs = precision_recall_fscore_support(labels, predicted, labels=range(classes), zero_division=0)
    for figure, expected in zip(per_class(ours).values(), theirs, strict=True):
        np.testing.assert_allclose(figure, expected, atol=1e-12)


@given(seeds, st.integers(2, 7), st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_batches_of_any_size_give_the_figures_of_the_whole(seed, classes, sizes):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(sum(sizes), classes)) * 3, rng.integers(0, classes, sum(sizes))
    metrics = ClassificationMetrics()
    for part in np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]):
        metrics.update(nn.Identity(), (torch.tensor(logits[part], dtype=torch.float32), torch.tensor(labels[part])))
    figures = metrics.compute()
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert figures["accuracy"] == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    assert figures["f1"] == pytest.approx(f1_score(labels, logits.argmax(1), average="macro", zero_division=0))
    # Logits of size 10 in float32 are known to 1e-6, however small the loss is.
    assert figures["loss"] == pytest.approx(log_loss(labels, chances, labels=range(classes)), rel=1e-5, abs=1e-6)
    assert np.array_equal(metrics.confusion, sk_confusion(labels, logits.argmax(1), labels=range(classes)))


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 1, dtype=torch.long)),  # would broadcast
        (torch.zeros(3, 3), torch.zeros(1, dtype=torch.long)),
        (torch.zeros(3), torch.zeros(3, dtype=torch.long)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(logits, labels):
    with pytest.raises(FieldguideError, match="must be"):
        ClassificationMetrics().update(nn.Identity(), (logits, labels))


def test_labels_that_are_no_class_numbers_are_refused():
    predicted = torch.tensor([0, 1])
    with pytest.raises(FieldguideError, match="integers"):
        confusion_matrix(predicted, torch.tensor([0.0, 1.0]), 2)  # pyright: ignore
    for outside in (-1, 2):
        with pytest.raises(FieldguideError, match="outside 0 … 1"):
            confusion_matrix(predicted, torch.tensor([0, outside]), 2)
        with pytest.raises(FieldguideError, match="outside 0 … 1"):
            confusion_matrix(torch.tensor([0, outside]), predicted, 2)


def test_nothing_evaluated():
    with pytest.raises(FieldguideError, match="no batch"):
        ClassificationMetrics().compute()
