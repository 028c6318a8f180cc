"""One label for each input: softmax cross-entropy."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn
from torch.nn.functional import cross_entropy

from fieldguide.metrics.classification import ClassificationMetrics
from fieldguide.objectives.phase import Phase
from fieldguide.shapes import Tensor


@dataclass(frozen=True)
class Classification:
    """Cross-entropy of logits (b, classes) with class indices (b,) or, after mixup, class probabilities (b, classes).

    Label smoothing as in Szegedy et al. 2016, §7: the target is (1 − ε)·one-hot + ε/classes. Evaluation reports the
    plain cross-entropy, without smoothing.
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
        yield Phase("model", cross_entropy(model(inputs), targets, label_smoothing=self.label_smoothing))

    def metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics()
