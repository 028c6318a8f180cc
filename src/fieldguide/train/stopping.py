"""Which epoch was best, and when to stop waiting for a better one."""

import math
from typing import Any, Literal


class Best:
    """The best value of one metric; ``over`` after ``patience`` epochs without a gain of more than ``min_delta``."""

    def __init__(self, metric: str, mode: Literal["min", "max"], patience: int = 0, min_delta: float = 0.0):
        self.metric, self.patience, self.min_delta = metric, patience, min_delta
        self._sign = 1 if mode == "max" else -1
        self.value: float | None = None
        self.epoch: int | None = None
        self.waited = 0
        self.improved = False

    @property
    def over(self) -> bool:
        return 0 < self.patience <= self.waited

    def update(self, value: float, epoch: int) -> bool:
        """Whether this epoch is the best so far; a value that is not finite never is."""
        gain = math.inf if self.value is None else self._sign * (value - self.value)
        self.improved = math.isfinite(value) and gain > self.min_delta
        if self.improved:
            self.value, self.epoch = value, epoch
        self.waited = 0 if self.improved else self.waited + 1
        return self.improved

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "epoch": self.epoch, "waited": self.waited, "improved": self.improved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value, self.epoch = state["value"], state["epoch"]
        self.waited, self.improved = state["waited"], state["improved"]
