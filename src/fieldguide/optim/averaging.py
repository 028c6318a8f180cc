"""Averaged weights, evaluated and saved in place of the last ones: EMA, SWA, or an optimizer's own average."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import (
    Tensor,
    _foreach_lerp_,  # pyright: ignore[reportPrivateImportUsage]
    nn,
    optim,
)

from fieldguide.optim.exchange import copy_all, exchanged, here
from fieldguide.optim.lookahead import Lookahead
from fieldguide.optim.norm_statistics import NormStatistics
from fieldguide.optim.schedule_free import ScheduleFreeAdamW


@runtime_checkable
class Average(Protocol):
    """Other weights than the trained ones, told of every step."""

    def update(self) -> None:
        """Takes in the model's weights after an optimizer step."""
        ...

    def applied(self) -> AbstractContextManager[None]:
        """Puts the averaged weights into the model for the length of a ``with`` block."""
        ...

    def install(self) -> None:
        """Gives the model the averaged weights for good."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


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
        _foreach_lerp_(here(self._average.values()), here(self._live.values()), 1 - decay)

    def applied(self) -> AbstractContextManager[None]:
        """Puts the averaged weights into the model for the length of a ``with`` block."""
        return exchanged(list(self._live.values()), list(self._average.values()))

    @torch.no_grad()
    def install(self) -> None:
        """Gives the model the averaged weights for good."""
        copy_all(self._live.values(), self._average.values())

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": dict(self._average)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name, tensor in self._average.items():
            tensor.copy_(state["average"][name])


class SWA:
    """Stochastic weight averaging: the plain mean of the weights after each step from step ``start`` on.

    Izmailov et al. 2018, Alg. 1, with every step in the mean. Batch norms get new statistics whenever the mean is put
    into the model, which costs a pass over the training data; up to ``start`` the model is used as it is.
    """

    def __init__(self, model: nn.Module, start: int, statistics: NormStatistics):
        self.start, self.statistics, self.updates = start, statistics, 0
        self._live = dict(model.named_parameters())
        self._average = {name: tensor.detach().clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Counts a step and, from ``start`` on, takes in the model's present weights; one foreach pass."""
        self.updates += 1
        if self.updates > self.start:
            _foreach_lerp_(list(self._average.values()), list(self._live.values()), 1 / (self.updates - self.start))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the mean, with statistics of its own, into the model for the length of a ``with`` block."""
        if self.updates <= self.start:
            yield
            return
        with exchanged(list(self._live.values()), list(self._average.values())), self.statistics.renewed():
            yield

    @torch.no_grad()
    def install(self) -> None:
        """Gives the model the mean, with statistics of its own, for good."""
        if self.updates > self.start:
            copy_all(self._live.values(), self._average.values())
            self.statistics.renew()

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": dict(self._average)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        for name, tensor in self._average.items():
            tensor.copy_(state["average"][name])


class OwnAverage:
    """The average that schedule-free optimizers keep themselves; batch norms get new statistics with it."""

    def __init__(self, optimizers: Iterable[ScheduleFreeAdamW], statistics: NormStatistics):
        self.optimizers, self.statistics = [*optimizers], statistics

    def update(self) -> None: ...

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the optimizers' averages into the model for the length of a ``with`` block."""
        averaged = self._averaged()
        with exchanged(list(averaged), list(averaged.values())), self.statistics.renewed():
            yield

    @torch.no_grad()
    def install(self) -> None:
        """Gives the model the optimizers' averages for good."""
        averaged = self._averaged()
        # Should the pass be interrupted, the weights are still those that the average is computed from.
        with exchanged(list(averaged), list(averaged.values())):
            if averaged:
                self.statistics.renew()
        for parameter, average in averaged.items():
            parameter.copy_(average)

    def _averaged(self) -> dict[Tensor, Tensor]:
        return {w: average for optimizer in self.optimizers for w, average in optimizer.averaged().items()}

    def state_dict(self) -> dict[str, Any]:
        return {}  # it is in the optimizers'

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class NoAverage:
    """What ``EMA`` does, for a model that is used as it is."""

    def update(self) -> None: ...

    def applied(self) -> AbstractContextManager[None]:
        return nullcontext()

    def install(self) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def build_average(
    model: nn.Module,
    steps: int,
    optimizers: Iterable[optim.Optimizer],
    pass_over: Callable[[], None],
    *,
    ema: float = 0.0,
    swa: float = 0.0,
    lookahead: int = 0,
) -> Average:
    """The one that is asked for: EMA's decay, SWA's share of all ``steps``, Lookahead's interval; 0 is off.

    ``pass_over`` runs the model over the training data, for new statistics of batch norms.
    """
    statistics = NormStatistics(model, pass_over)
    if own := [optimizer for optimizer in optimizers if isinstance(optimizer, ScheduleFreeAdamW)]:
        return OwnAverage(own, statistics)
    if swa:
        return SWA(model, min(round((1 - swa) * steps), steps - 1), statistics)
    if lookahead:
        return Lookahead(model, lookahead)
    return EMA(model, ema) if ema else NoAverage()


def _averaged_tensors(model: nn.Module) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    for prefix, module in model.named_modules():
        if getattr(module, "track_running_stats", False):
            named = module.named_buffers(prefix, recurse=False)
            tensors |= {name: buffer for name, buffer in named if buffer.is_floating_point()}
    return tensors
