"""Figures for predicted numbers. Axis letters: b batch, t targets of each input, s what is kept of each."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.metrics.processes import of_all_processes
from fieldguide.shapes import Float, Tensor

Predict = Callable[[nn.Module, Any], tuple[Tensor, Tensor]]


class RegressionMetrics:
    """Mean squared error, its root, mean absolute error and R² over a data set and all processes, in float64.

    ``predict(model, batch)`` gives predictions and targets of one shape, (b, t) or (b,). Several targets count equally,
    as scikit-learn's ``uniform_average``; like there the root is taken of each target's error before the mean.

    R² is 1 − Σ(y − ŷ)² / Σ(y − ȳ)². Where all targets are equal it is 1 for a perfect prediction and else 0, and of
    fewer than two samples there is none (NaN): scikit-learn's conventions. (torchmetrics takes targets whose squares
    sum to less than 1e-4 for equal ones, so it is not used here.)

    The error called ``loss`` counts in ``units``, one or one for each target, as the objective's; all else in the
    targets' own.
    """

    def __init__(self, predict: Predict, units: Sequence[float] = (1.0,)):
        self.predict, self.units = predict, units
        self._kept: Float[Tensor, "s t"] | None = None

    def update(self, model: nn.Module, batch: Any) -> None:
        self.add(*self.predict(model, batch))

    def add(self, predicted: Tensor, targets: Tensor) -> None:
        """Adds one batch; raises ``FieldguideError`` for shapes that differ, which would broadcast, and other kinds."""
        if predicted.shape != targets.shape or targets.ndim not in (1, 2):
            raise FieldguideError(
                f"metrics: predictions {tuple(predicted.shape)} and targets {tuple(targets.shape)} "
                "must have one shape, (b,) or (b, targets)"
            )
        if not predicted.is_floating_point() or targets.is_complex():
            raise FieldguideError(f"metrics: predictions must be real numbers, not {predicted.dtype}")
        if len(targets):
            kept = _kept(*(part.double().reshape(len(part), -1) for part in (predicted, targets)))
            self._kept = kept if self._kept is None else _joined(self._kept, kept)

    def compute(self) -> dict[str, float]:
        """``loss`` (the mean squared error), ``rmse``, ``mae`` and ``r2``.

        Raises ``FieldguideError`` before the first sample; with several processes, each needs one.
        """
        count, squares, absolute, _, spread, least, most = self._whole()
        # A rounded mean leaves a spread where there is none, so equal targets are told by their limits.
        explained = torch.where(least == most, (squares == 0).double(), 1 - squares / spread)
        return {
            "loss": float((squares / count / squares.new_tensor(self.units).square()).mean()),
            "rmse": float((squares / count).sqrt().mean()),
            "mae": float((absolute / count).mean()),
            "r2": float(explained.mean()) if count[0] > 1 else float("nan"),
        }

    @property
    def baseline(self) -> float:
        """The ``loss`` of the best constant answer: the mean of each target."""
        count, _, _, _, spread, *_ = self._whole()
        return float((spread / count / spread.new_tensor(self.units).square()).mean())

    def _whole(self) -> Float[Tensor, "s t"]:
        if self._kept is None:
            raise FieldguideError("metrics: nothing to evaluate, the data set gave no batch")
        return reduce(_joined, of_all_processes(self._kept))


def _kept(predicted: Float[Tensor, "b t"], targets: Float[Tensor, "b t"]) -> Float[Tensor, "s t"]:
    error, mean = predicted - targets, targets.mean(0)
    sums = error.square().sum(0), error.abs().sum(0), mean, (targets - mean).square().sum(0)
    return torch.stack([torch.full_like(mean, len(targets)), *sums, targets.amin(0), targets.amax(0)])


def _joined(one: Float[Tensor, "s t"], other: Float[Tensor, "s t"]) -> Float[Tensor, "s t"]:
    """Of both together; sums of squares about the mean as in Chan, Golub & LeVeque 1983, eq. 2.1: no cancellation."""
    (n, squares, absolute, mean, spread, least, most), (m, *more) = one, other
    apart = more[2] - mean
    mean, spread = mean + apart * (m / (n + m)), spread + more[3] + apart.square() * (n * m / (n + m))
    sums = n + m, squares + more[0], absolute + more[1], mean, spread
    return torch.stack([*sums, torch.minimum(least, more[4]), torch.maximum(most, more[5])])
