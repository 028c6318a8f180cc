"""Several optimizers over one model, seen as one."""

from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from torch import optim


class Together(optim.Optimizer):
    """Each optimizer moves its own groups; all groups stand in one list and all states in one table.

    So what sets rates, scales gradients or saves states needs to know of nothing.
    """

    def __init__(self, *optimizers: optim.Optimizer):
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self.optimizers = optimizers
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update by each of them."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for optimizer in self.optimizers:
            optimizer.state = self.state
            optimizer.param_groups = [*islice(groups, len(optimizer.param_groups))]
