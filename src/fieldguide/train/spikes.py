"""Losses that stand far above what came before."""

from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

_WINDOW = 128
_FEWEST = 64
_DEVIATION = 1.4826  # of a normal distribution, in units of its median absolute deviation
_SMALLEST = 0.01


class Spikes:
    """A loss more than ``limit`` deviations above the median of the last 128 of its part is a spike; 0 never looks.

    After OLMo's step skipping (OLMo et al. 2024, "2 OLMo 2 Furious"; six deviations of the last 128 losses), with
    median and median absolute deviation, which one outlier cannot move, in place of mean and standard deviation. The
    deviation counts as 1 % of the median at least; nothing is said before there are 64 losses.
    """

    def __init__(self, limit: float):
        self.limit = limit
        self.losses: dict[str, deque[float]] = {}

    def above(self, part: str, loss: float) -> str:
        """How a spike stands out, in words; nothing for an ordinary loss."""
        losses = self.losses.get(part, ())
        if len(losses) < _FEWEST:
            return ""
        middle = median(losses)
        deviation = max(_DEVIATION * median(abs(value - middle) for value in losses), _SMALLEST * abs(middle))
        if loss <= middle + self.limit * deviation:
            return ""
        return f"more than {self.limit:g} deviations of {deviation:.3g} above the recent median {middle:.4g}"

    def add(self, losses: Mapping[str, float]) -> None:
        """The losses of a step that was taken."""
        for part, loss in losses.items() if self.limit else ():
            self.losses.setdefault(part, deque(maxlen=_WINDOW)).append(loss)

    def state_dict(self) -> dict[str, Any]:
        return {part: list(losses) for part, losses in self.losses.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = {part: deque(losses, maxlen=_WINDOW) for part, losses in state.items()}
