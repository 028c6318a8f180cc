"""One label for each input: softmax cross-entropy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import nn
from torch.nn.functional import cross_entropy

from fieldguide.metrics.classification import ClassificationMetrics
from fieldguide.objectives.phase import Phase
from fieldguide.shapes import Tensor


@runtime_checkable
class DeeplySupervised(Protocol):
    """A network that training also asks for the logits of auxiliary classifiers on its inner maps."""

    auxiliary_weight: float

    def deep_supervision(self, x: Tensor, /) -> tuple[Tensor, ...]:
        """The network's logits, then those of each auxiliary classifier, all ``(b, classes)``."""
        ...


@dataclass(frozen=True)
class Classification:
    """Cross-entropy of logits (b, classes) with class indices (b,) or, after mixup, class probabilities (b, classes).

    Label smoothing as in Szegedy et al. 2016, §7: the target is (1 − ε)·one-hot + ε/classes. Evaluation reports the
    plain cross-entropy, without smoothing.

    A network with auxiliary classifiers (:class:`DeeplySupervised`) has the loss L(logits) + w · Σ L(auxiliary logits),
    w its ``auxiliary_weight`` (Szegedy et al. 2015, §5).
    """

    label_smoothing: float = 0.0

    @property
    def monitor(self) -> tuple[str, Literal["min", "max"]]:
        return "accuracy", "max"

    def parts(self, model: nn.Module) -> dict[str, nn.Module]:
        return {"model": model}

    def weight(self, batch: Sequence[Tensor]) -> int:
        return batch[1].shape[0]

    def step(self, model: nn.Module, batch: Sequence[Tensor]) -> Iterator[Phase]:
        inputs, targets = batch
        if isinstance(model, DeeplySupervised):
            logits, *auxiliary = model.deep_supervision(inputs)
            extra = model.auxiliary_weight * sum(self._loss(inner, targets) for inner in auxiliary)
            yield Phase("model", self._loss(logits, targets) + extra)
        else:
            yield Phase("model", self._loss(model(inputs), targets))

    def _loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics()
