"""A classifier's figures by name, by torchmetrics: exact, over batches of any size and over all processes.

``ClassificationMetrics`` is for every epoch; this is for a closer look at the end. Axis letters: b batch, c classes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from fieldguide.errors import FieldguideError, unknown
from fieldguide.shapes import Bool, Float, Int, Tensor

if TYPE_CHECKING:
    from torchmetrics import Metric

Confusion = Int[Tensor, "c c"]


def occurring(confusion: Confusion) -> Bool[Tensor, " c"]:
    """Classes among the labels or the predictions."""
    return confusion.sum(0) + confusion.sum(1) > 0


def present(confusion: Confusion) -> Bool[Tensor, " c"]:
    """Classes among the labels."""
    return confusion.sum(1) > 0


def separable(confusion: Confusion) -> Bool[Tensor, " c"]:
    """Classes that some samples have and others have not."""
    return (confusion.sum(1) > 0) & (confusion.sum(1) < confusion.sum())


class Measure(NamedTuple):
    metric: str
    """In ``torchmetrics.classification``."""
    options: Mapping[str, Any] = {}
    classes: Callable[[Confusion], Bool[Tensor, " c"]] | None = None
    """Of a figure for each class: those over which its mean is taken."""


MEASURES = {
    "accuracy": Measure("MulticlassAccuracy", {"average": "micro"}),
    "balanced_accuracy": Measure("MulticlassRecall", {"average": "none"}, present),
    "precision": Measure("MulticlassPrecision", {"average": "none"}, occurring),
    "recall": Measure("MulticlassRecall", {"average": "none"}, occurring),
    "f1": Measure("MulticlassF1Score", {"average": "none"}, occurring),
    "roc_auc": Measure("MulticlassAUROC", {"average": "none"}, separable),
    "average_precision": Measure("MulticlassAveragePrecision", {"average": "none"}, present),
    "calibration_error": Measure("MulticlassCalibrationError", {"n_bins": 15}),
}
"""By name; ``top<k>_accuracy`` with any k is known as well."""


class Measures:
    """The named figures of a classifier's logits (b, c) and labels (b,).

    * ``accuracy``, ``top5_accuracy`` (any k), ``balanced_accuracy`` (mean recall of the classes that are there).
    * ``precision``, ``recall``, ``f1``: mean over the classes that occur among labels or predictions, 0 where there is
      nothing to divide by, as scikit-learn.
    * ``roc_auc``, ``average_precision``: mean of each class against the rest, from all scores without bins; NaN where
      no class can be told from another.
    * ``calibration_error``: mean distance of confidence from accuracy in 15 bins (Guo et al. 2017, eq. 3).

    ``compute`` joins what all processes gathered. Raises ``FieldguideError`` for an unknown name.
    """

    def __init__(self, names: Sequence[str], num_classes: int):
        self.num_classes = num_classes
        self._metrics = {name: self._build(name) for name in ("confusion", *names)}

    def update(self, model: nn.Module, batch: Sequence[Tensor]) -> None:
        inputs, labels = batch
        self.add(model(inputs), labels)

    @torch.no_grad()
    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Adds one batch; raises ``FieldguideError`` for shapes, kinds and classes that do not fit together."""
        c = self.num_classes
        if logits.ndim != 2 or logits.shape[1] != c or labels.shape != logits.shape[:1]:
            raise FieldguideError(
                f"metrics: logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must be (b, {c}) and (b,)"
            )
        if not logits.is_floating_point() or labels.is_floating_point() or labels.dtype == torch.bool:
            raise FieldguideError(
                f"metrics: give logits and whole class numbers, not {logits.dtype} and {labels.dtype}"
            )
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < c:
            raise FieldguideError(f"metrics: a label is outside 0 … {c - 1}")
        chances = logits.double().softmax(1)
        for metric in self._metrics.values():
            metric.to(labels.device).update(chances, labels)

    def compute(self) -> dict[str, float]:
        """Every figure as one number. Raises ``FieldguideError`` before the first sample."""
        confusion, each = self.confusion, self.per_class()
        means = {name: values[MEASURES[name].classes(confusion)].mean() for name, values in each.items()}  # pyright: ignore
        whole = {name: m.compute() for name, m in self._metrics.items() if name not in {"confusion", *means}}
        return {name: float((means | whole)[name]) for name in self._metrics if name != "confusion"}

    def per_class(self) -> dict[str, Float[Tensor, " c"]]:
        """The named figures that have one value for each class; meaningless where the class is not there."""
        each = {name: m for name, m in self._metrics.items() if name in MEASURES and MEASURES[name].classes}
        return {name: metric.compute().double() for name, metric in each.items()}

    @property
    def confusion(self) -> Confusion:
        """Rows are the true classes. Raises ``FieldguideError`` before the first sample."""
        if not self._metrics["confusion"].update_called:
            raise FieldguideError("metrics: nothing to evaluate, the data set gave no batch")
        return self._metrics["confusion"].compute()

    def _build(self, name: str) -> "Metric":
        from torchmetrics import classification

        measure = Measure("MulticlassConfusionMatrix") if name == "confusion" else self._named(name)
        options = {"num_classes": self.num_classes, "validate_args": False, **measure.options}
        return getattr(classification, measure.metric)(**options)

    def _named(self, name: str) -> Measure:
        if top := re.fullmatch(r"top(\d+)_accuracy", name):
            if not 1 <= int(top[1]) <= self.num_classes:
                raise FieldguideError(
                    f"metrics: {name} needs at least {top[1]} classes, and there are {self.num_classes}"
                )
            return Measure("MulticlassAccuracy", {"average": "micro", "top_k": int(top[1])})
        if name not in MEASURES:
            raise unknown("metric", name, [*MEASURES, "top5_accuracy"])
        return MEASURES[name]
