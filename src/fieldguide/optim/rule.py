"""What the optimizers that are written here have in common: which parameters move, and where their state begins."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, optim

State = dict[str, Any]


class Rule(optim.Optimizer, ABC):
    """An optimizer of which only two things need to be written: a parameter's first state, and a group's change.

    ``step`` in a parameter's state counts its own updates, so one that was frozen at first has its own start.
    """

    @abstractmethod
    def start(self, parameter: Tensor) -> State:
        """The state of a parameter before its first update."""

    @abstractmethod
    def change(self, group: State, parameters: list[Tensor], gradients: list[Tensor], states: list[State]) -> None:
        """Moves the parameters of a group by its numbers; states are changed in place."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter] |= {"step": 0} | self.start(parameter)
                self.state[parameter]["step"] += 1
            if parameters:
                gradients = [parameter.grad for parameter in parameters]
                self.change(group, parameters, gradients, [self.state[parameter] for parameter in parameters])
        return loss
