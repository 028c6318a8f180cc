"""Lookahead: an optimizer runs ahead, and slow weights follow part of the way."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import (
    _foreach_lerp_,  # pyright: ignore[reportPrivateImportUsage]
    nn,
)

from fieldguide.optim.exchange import copy_all, exchanged, here


class Lookahead:
    """Every ``every`` steps: ``slow ← slow + pull · (fast − slow)``, ``fast ← slow`` (Zhang et al. 2019, Alg. 1).

    Works with any optimizer, whose own state goes on undisturbed (the paper's "maintain"). The slow weights are
    evaluated and saved; running statistics are the fast weights', at most ``every`` steps ahead.
    """

    def __init__(self, model: nn.Module, every: int = 5, pull: float = 0.5):
        self.every, self.pull, self.steps = every, pull, 0
        self._live = dict(model.named_parameters())
        self._slow = {name: tensor.detach().clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Counts an optimizer step; at every ``every``-th the weights go back to the slow ones, which have moved."""
        self.steps += 1
        if self.steps % self.every == 0:
            _foreach_lerp_(here(self._slow.values()), here(self._live.values()), self.pull)
            self.install()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the slow weights into the model for the length of a ``with`` block."""
        with exchanged(list(self._live.values()), list(self._slow.values())):
            yield

    @torch.no_grad()
    def install(self) -> None:
        """Gives the model the slow weights for good."""
        copy_all(self._live.values(), self._slow.values())

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "slow": dict(self._slow)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        for name, tensor in self._slow.items():
            tensor.copy_(state["slow"][name])
