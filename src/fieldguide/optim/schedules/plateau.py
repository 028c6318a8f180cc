"""The one schedule that cannot be known before: the rate falls when validation stops getting better."""

from typing import Any


class Plateau:
    """The factor falls by ``gamma``, but not below ``final``, after every ``patience`` epochs without a better one.

    He et al. 2016, ResNet, §3.4: "divided by 10 when the error plateaus". ``patience = 0`` never acts.
    """

    def __init__(self, patience: int = 0, gamma: float = 0.1, final: float = 0.0):
        self.patience, self.gamma, self.final = patience, gamma, final
        self.factor, self.waited = 1.0, 0

    def epoch_done(self, improved: bool) -> None:
        self.waited = 0 if improved else self.waited + 1
        if 0 < self.patience <= self.waited:
            self.factor, self.waited = max(self.final, self.factor * self.gamma), 0

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self.factor, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.factor, self.waited = state["factor"], state["waited"]
