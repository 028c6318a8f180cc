"""One label for each input: softmax cross-entropy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from fieldguide.errors import FieldguideError
from fieldguide.metrics.classification import ClassificationMetrics
from fieldguide.objectives.focal import class_weights, focal_loss
from fieldguide.objectives.phase import Phase
from fieldguide.shapes import Int, Tensor

_NONE = -(2**62)
"""No label; the -100 that PyTorch leaves out in silence is one, and a wrong one."""


@runtime_checkable
class DeeplySupervised(Protocol):
    """A network that training also asks for the logits of auxiliary classifiers on its inner maps."""

    auxiliary_weight: float

    def deep_supervision(self, x: Tensor, /) -> tuple[Tensor, ...]:
        """The network's logits, then those of each auxiliary classifier, all ``(b, classes)``."""
        ...


@runtime_checkable
class ClassificationSettings(Protocol):
    """The numbers of ``fieldguide.Recipe`` that the objective depends on."""

    @property
    def label_smoothing(self) -> float: ...
    @property
    def focal(self) -> float: ...
    @property
    def class_balance(self) -> float: ...


@dataclass(frozen=True)
class Classification:
    """Cross-entropy of logits (b, classes) with class indices (b,) or, after mixing, class probabilities (b, classes).

    A batch is ``(inputs, targets)``, or ``(tokens, keep, targets)`` of texts. Label smoothing as in Szegedy et al.
    2016, §7: the target is (1 − ε)·one-hot + ε/classes. Evaluation reports the plain cross-entropy, without smoothing
    or weights. A step's loss is a mean over samples, not over their weights, so that accumulated batches add up to one
    large one.

    A network with auxiliary classifiers (:class:`DeeplySupervised`) has the loss L(logits) + w · Σ L(auxiliary logits),
    w its ``auxiliary_weight`` (Szegedy et al. 2015, §5).

    Raises:
        FieldguideError: logits and targets that do not fit. Values are looked at only where that costs no waiting, on
            the CPU.
    """

    label_smoothing: float = 0.0
    focal: float = 0.0
    """The γ of the focal loss: how much less what is classified well already counts."""
    class_weights: tuple[float, ...] = ()
    """A weight for each class, as ``class_weights`` finds it in the data; none weighs all alike."""

    @classmethod
    def of(cls, settings: ClassificationSettings, labels: Int[Tensor, " n"], num_classes: int) -> "Classification":
        """As a recipe asks for it, with weights that balance the labels of the training part."""
        weights = class_weights(labels, num_classes, settings.class_balance)
        return cls(settings.label_smoothing, settings.focal, weights)

    @property
    def monitor(self) -> tuple[str, Literal["min", "max"]]:
        return "accuracy", "max"

    def parts(self, model: nn.Module) -> dict[str, nn.Module]:
        return {"model": model}

    def weight(self, batch: Sequence[Tensor]) -> int:
        return batch[-1].shape[0]

    def step(self, model: nn.Module, batch: Sequence[Tensor]) -> Iterator[Phase]:
        *inputs, targets = batch
        # Where the method is missing, the check of a protocol with isinstance would cost every step 20 µs.
        if hasattr(model, "deep_supervision") and isinstance(model, DeeplySupervised):
            logits, *auxiliary = model.deep_supervision(*inputs)
            extra = model.auxiliary_weight * sum(self._loss(inner, targets) for inner in auxiliary)
            yield Phase("model", self._loss(logits, targets) + extra)
        else:
            yield Phase("model", self._loss(model(*inputs), targets))

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        _require_fit(logits, targets, len(self.class_weights))
        if not self.focal and not self.class_weights:
            try:
                return cross_entropy(logits, targets, ignore_index=_NONE, label_smoothing=self.label_smoothing)
            except IndexError:
                _require_labels(logits, targets)
                raise
        if targets.ndim == 1:
            _require_labels(logits, targets)
        classes = logits.shape[1]
        shares = targets if targets.is_floating_point() else one_hot(targets, classes)
        shares = shares.to(torch.promote_types(logits.dtype, torch.float32))
        shares = shares * (1 - self.label_smoothing) + self.label_smoothing / classes
        weights = shares.new_tensor(self.class_weights) if self.class_weights else None
        return focal_loss(logits, shares, self.focal, weights)

    def metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics()


def _require_fit(logits: Tensor, targets: Tensor, weights: int) -> None:
    """Nothing is broadcast, converted or left out in silence."""
    as_labels = targets.ndim == 1
    if logits.ndim != 2 or targets.shape != (logits.shape[:1] if as_labels else logits.shape):
        raise _misfit(logits, targets, "(b, classes) logits need (b,) labels or (b, classes) shares")
    classes = logits.shape[1]
    if weights not in (0, classes):
        raise FieldguideError(f"objective: {weights} class weights for {classes} classes; give one for each")
    if as_labels and targets.dtype != torch.int64:
        raise _misfit(logits, targets, "labels must be whole numbers of int64")
    if not as_labels and not targets.is_floating_point():
        raise _misfit(logits, targets, "shares of the classes must be floats")
    if as_labels or targets.device.type != "cpu":
        return
    if (targets < 0).any() or not torch.allclose(targets.sum(1), targets.new_ones(()), atol=1e-3):
        raise _misfit(logits, targets, "the shares of a sample must be at least 0 and sum to 1")


def _require_labels(logits: Tensor, targets: Tensor) -> None:
    """Between 0 and the number of classes."""
    if targets.device.type == "cpu" and len(targets):
        (low, high), classes = (int(end) for end in targets.aminmax()), logits.shape[1]
        if not 0 <= low <= high < classes:
            wrong = low if low < 0 else high
            raise _misfit(
                logits, targets, f"there is a label {wrong}, and {classes} classes count from 0 to {classes - 1}"
            )


def _misfit(logits: Tensor, targets: Tensor, why: str) -> FieldguideError:
    found = f"targets {tuple(targets.shape)} of {targets.dtype} and logits {tuple(logits.shape)}"
    return FieldguideError(f"objective: {found} do not fit: {why}")
