"""How a training began: its network and optimizer before the first step, its first batches, its rates."""

import gc
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fieldguide.doctor.observe.losses import LossCall
from fieldguide.doctor.observe.replay import MOST_BATCHES, MOST_BYTES, Kept, Recording, tensors
from fieldguide.doctor.observe.structure import parameters_of, wraps
from fieldguide.doctor.preflight.twin import copied, plain
from fieldguide.doctor.probes.fork import taken_over

Optimizer = torch.optim.Optimizer
MOST = 200  # batches
WITHOUT_STEP = 10  # batches after which an optimizer that takes no step is looked for
BYTES = 512 << 20  # of all of them


class Beginning(Recording):
    """A recording from which a training can be begun anew. ``batches`` are the few that probes and tests work with."""

    within = MOST

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.all: list[Kept] = []
        self.optimizer: Optimizer | None = None
        """A copy, for ``network``; None where no optimizer took a step."""
        self.rates: list[list[float]] = []
        """Of every parameter group, at each of the first steps."""
        self.obstacle: str | None = None
        """Why the training cannot be begun anew."""
        try:
            self.network: nn.Module | None = copied(model)
        except Exception as problem:  # a network may be anything
            self.network, self.obstacle = None, f"the network cannot be copied: {problem}"

    @property
    def full(self) -> bool:
        return len(self.all) >= MOST or self._bytes >= BYTES

    def keep(self, batch: Kept, size: int) -> None:
        if len(self.batches) < MOST_BATCHES and self._bytes < MOST_BYTES:
            self.batches.append(batch)
        self.all.append(batch)
        self._bytes += size
        if len(self.all) == WITHOUT_STEP and not self.rates:
            own = {id(parameter) for parameter in self.model.parameters()}
            for thing in gc.get_objects():
                if issubclass(type(thing), Optimizer) and not own.isdisjoint(parameters_of(thing)) and not wraps(thing):
                    self.stepping(thing)

    @torch.no_grad()
    def answered(self, output: Any, loss: Tensor, call: LossCall | None) -> None:
        """A batch whose loss is not finite is kept as well, its loss made from the output as that of the one before."""
        given, before = self._given, len(self.all)
        super().answered(output, loss, call)
        if given and call is not None and before and len(self.all) == before and not torch.isfinite(loss).all():
            args, kwargs = given
            size = sum(t.numel() * t.element_size() for t in tensors((args, kwargs, call.target)))
            self.keep(replace(self.all[-1], args=args, kwargs=kwargs, target=call.target.detach().clone()), size)

    def stepping(self, optimizer: Optimizer) -> None:
        if len(self.rates) >= MOST or self.network is None:
            return
        if not self.rates:
            try:
                self.optimizer = taken_over(optimizer, plain(self.model), self.network)
            except Exception as problem:
                self.obstacle = f"its {type(optimizer).__name__} cannot be copied: {problem}"
        self.rates.append([float(group.get("lr", 0.0)) for group in optimizer.param_groups])
