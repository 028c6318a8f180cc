"""How far a classifier may be believed. Axis letters: b samples, c classes, k bins."""

from dataclasses import dataclass

import torch

from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Int, Tensor


@dataclass(frozen=True, eq=False)
class Reliability:
    """What is drawn in a reliability diagram: the samples in bins of confidence (Guo et al. 2017, §2)."""

    confidence: Float[Tensor, " k"]
    """Mean probability of the predicted class; 0 in an empty bin."""
    accuracy: Float[Tensor, " k"]
    """Share of right predictions; 0 in an empty bin."""
    count: Int[Tensor, " k"]

    @property
    def error(self) -> float:
        """Expected calibration error (eq. 3): the mean distance of the two over all samples."""
        return float((self.count * (self.accuracy - self.confidence).abs()).sum() / self.count.sum())


def reliability(probability: Float[Tensor, " b"], right: Tensor, bins: int = 15) -> Reliability:
    """The bins of the probabilities (b,) of the predicted classes and of whether each was right (b,), of equal width.

    A probability on a border belongs to the bin above it, and 1 to the last.

    Raises ``FieldguideError`` for vectors of different lengths, no sample, or probabilities outside 0 … 1.
    """
    if probability.ndim != 1 or right.shape != probability.shape or not len(right):
        raise FieldguideError(
            f"metrics: probabilities {tuple(probability.shape)} and hits {tuple(right.shape)} must be two equal vectors"
        )
    if not ((probability >= 0) & (probability <= 1)).all():
        raise FieldguideError("metrics: a probability is outside 0 … 1; give softmax(logits), not logits")
    borders = torch.linspace(0, 1, bins + 1, dtype=probability.dtype, device=probability.device)
    place = (torch.bucketize(probability, borders, right=True) - 1).clamp(max=bins - 1)
    count = torch.bincount(place, minlength=bins)
    sums = [torch.bincount(place, values.double(), minlength=bins) for values in (probability, right)]
    confidence, accuracy = (total / count.clamp(min=1) for total in sums)
    return Reliability(confidence, accuracy, count)
