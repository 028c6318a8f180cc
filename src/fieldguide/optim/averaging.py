"""An averaged copy of the weights (EMA), evaluated and saved in place of the last ones."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import (
    Tensor,
    _foreach_copy_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_lerp_,  # pyright: ignore[reportPrivateImportUsage]
    nn,
)


class EMA:
    """Exponential moving average of a model's parameters: ``average ← d·average + (1 − d)·weights`` after each step.

    Polyak & Juditsky 1992 in the exponential form of Tarvainen & Valpola 2017 (Mean Teacher, eq. 1). The decay warms
    up, ``d = min(decay, (1 + n) / (10 + n))`` at the n-th update, so short runs forget the random start too.
    The running statistics of norm layers are averaged like the weights they belong to; all other buffers (counters,
    tables, power-iteration vectors) are the model's own.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self._live = _averaged_tensors(model)
        self._average = {name: tensor.detach().clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the model's present weights; one foreach pass."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        _foreach_lerp_(list(self._average.values()), list(self._live.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the averaged weights into the model for the length of a ``with`` block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def install(self) -> None:
        """Gives the model the averaged weights for good."""
        _foreach_copy_(list(self._live.values()), list(self._average.values()))

    @torch.no_grad()
    def _swap(self) -> None:
        live, average = list(self._live.values()), list(self._average.values())
        kept = [tensor.clone() for tensor in live]
        _foreach_copy_(live, average)
        _foreach_copy_(average, kept)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": dict(self._average)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name, tensor in self._average.items():
            tensor.copy_(state["average"][name])


class NoAverage:
    """What ``EMA`` does, for a model that is used as it is."""

    def update(self) -> None: ...

    def applied(self) -> AbstractContextManager[None]:
        return nullcontext()

    def install(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def build_average(model: nn.Module, decay: float) -> EMA | NoAverage:
    """``EMA`` with this decay, or nothing for 0."""
    return EMA(model, decay) if decay else NoAverage()


def _averaged_tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    for prefix, module in model.named_modules():
        if getattr(module, "track_running_stats", False):
            named = module.named_buffers(prefix, recurse=False)
            tensors |= {name: buffer for name, buffer in named if buffer.is_floating_point()}
    return tensors
