"""Numbers for each input: squared, absolute, Huber's or Gaussian error.

b batch · t targets of each input.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import huber_loss, l1_loss, mse_loss

from fieldguide.errors import FieldguideError, unknown
from fieldguide.metrics.regression import RegressionMetrics
from fieldguide.objectives.phase import Phase
from fieldguide.shapes import Float, Tensor

_LOSSES = ("mse", "mae", "huber", "gaussian")


@dataclass(frozen=True)
class Regression:
    """The error of the outputs (b, t) against the targets (b, t), or (b,) for one: a mean over both axes.

    With r = (output − target) / unit:

    * ``mse``: r², ``mae``: |r|.
    * ``huber``: r²/2 where |r| ≤ δ, else δ·(|r| − δ/2), so that outliers pull no harder than δ (Huber 1964, eq. 2).
    * ``gaussian``: (s + r²·e⁻ˢ)/2, the negative log-likelihood without its constant ½ ln 2π. The network gives (b, 2t):
      all means, then all s, the logarithms of the variance of r (Nix & Weigend 1994, eq. 7, there with the variance).

    Raises:
        FieldguideError: an unknown loss; outputs and targets of shapes that do not fit, instead of broadcasting.
    """

    loss: str = "mse"
    delta: float = 1.0
    """Where ``huber`` turns from a square to a line."""
    units: tuple[float, ...] = (1.0,)
    """What each target's error counts in, such as its standard deviation: rates and limits then fit any scale."""

    def __post_init__(self) -> None:
        if self.loss not in _LOSSES:
            raise unknown("loss", self.loss, _LOSSES)
        if not self.delta > 0 or not all(unit > 0 for unit in self.units):
            raise FieldguideError(f"objective: delta = {self.delta} and units = {self.units} must be above 0")

    @property
    def monitor(self) -> tuple[str, Literal["min", "max"]]:
        return "rmse", "min"

    def parts(self, model: nn.Module) -> dict[str, nn.Module]:
        return {"model": model}

    def weight(self, batch: Sequence[Tensor]) -> int:
        return batch[1].shape[0]

    def step(self, model: nn.Module, batch: Sequence[Tensor]) -> Iterator[Phase]:
        output, targets = self._fitting(model, batch)
        units = targets.new_tensor(self.units)
        width = targets.shape[1]
        value, wanted = output[:, :width] / units, targets / units
        match self.loss:
            case "mse":
                loss = mse_loss(value, wanted)
            case "mae":
                loss = l1_loss(value, wanted)
            case "huber":
                loss = huber_loss(value, wanted, delta=self.delta)
            case _:
                log_variance = output[:, width:]
                loss = (log_variance + (value - wanted).square() * (-log_variance).exp()).mean() / 2
        yield Phase("model", loss)

    def predict(self, model: nn.Module, batch: Sequence[Tensor]) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
        """The predicted means and the targets, in the targets' own units."""
        output, targets = self._fitting(model, batch)
        return output[:, : targets.shape[1]], targets

    def metrics(self) -> RegressionMetrics:
        return RegressionMetrics(self.predict, self.units)

    def _fitting(self, model: nn.Module, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        inputs, targets = batch
        output = model(inputs)
        wanted = targets[:, None] if targets.ndim == 1 else targets
        b, t = wanted.shape[0], wanted.shape[-1]
        needed = (b, 2 * t if self.loss == "gaussian" else t)
        if wanted.ndim != 2 or output.shape != needed:
            raise FieldguideError(
                f"objective: the {self.loss} loss of targets {tuple(targets.shape)} needs an output of {needed}, "
                f"not {tuple(output.shape)}; give the network {needed[1]} outputs"
            )
        if len(self.units) not in (1, t):
            raise FieldguideError(f"objective: {len(self.units)} units for {t} targets; give one, or one for each")
        # Half precision would round the targets; an output of float64 keeps its own.
        kind = torch.promote_types(output.dtype, torch.float32)
        return output.to(kind), wanted.to(kind)
