"""A fork of a training: a copy of its network and optimizer that goes on by itself on the batches that were kept.

Nothing that is done to a fork reaches the training: its tensors are copies and the random generators are put back.
"""

import copy
import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from fieldguide.doctor.preflight.twin import Replay, copied, plain

Optimizer = torch.optim.Optimizer


class Fork:
    """``optimizer`` is the training's own, whose rule, rates and moments the copy takes over; None for a plain Adam."""

    def __init__(self, replay: Replay, optimizer: Optimizer | None = None, *, rate: float = 3e-3):
        self.replay, self.batches = replay, list(replay.batches)
        self.model = copied(replay.model).train()
        for parameter in self.model.parameters():
            parameter.grad = None
        self.optimizer = (
            torch.optim.Adam([p for p in self.model.parameters() if p.requires_grad], lr=rate)
            if optimizer is None
            else taken_over(optimizer, plain(replay.model), self.model)
        )
        self.scale = 1.0
        """What the loss is multiplied with."""
        self.change: Callable[[Any], Any] = lambda batch: batch
        """What is done to every batch."""

    def afresh(self) -> "Fork":
        """With new random initial values, where modules know how to draw them."""
        for module in self.model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        return self

    def calm(self) -> "Fork":
        """Without dropout."""
        for module in self.model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
        return self

    def learn(self, steps: int, batches: Sequence[Any] | None = None) -> list[float]:
        """The loss before each of so many steps; it ends early when it is not finite."""
        chosen = [self.change(batch) for batch in (self.batches if batches is None else batches)]
        losses: list[float] = []
        for step in range(steps):
            self.optimizer.zero_grad()
            loss = self.replay.loss(self.model, chosen[step % len(chosen)])
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                break
            (self.scale * loss).backward()
            self.optimizer.step()
        return losses

    def loss(self, *, training: bool = False) -> float:
        """Mean over the kept batches, in either mode."""
        self.model.train(training)
        with torch.no_grad():
            losses = [self.replay.loss(self.model, self.change(batch)).item() for batch in self.batches]
        self.model.train()
        return sum(losses) / len(losses)


def end(losses: Sequence[float]) -> float:
    """The median of the last fifth; infinite when the loss did not stay finite."""
    if not losses or not math.isfinite(losses[-1]):
        return math.inf
    return median(losses[-max(1, len(losses) // 5) :])


def taken_over(optimizer: Optimizer, model: nn.Module, twin: nn.Module) -> Optimizer:
    """The optimizer for a twin of ``model``, its settings and moments as they are; LookupError if it learns none."""
    places = {id(parameter): name for name, parameter in model.named_parameters()}
    named = dict(twin.named_parameters())
    groups, state = [], {}
    for group in optimizer.param_groups:
        known = [parameter for parameter in group["params"] if id(parameter) in places]
        settings = {name: value for name, value in group.items() if name != "params"}
        groups.append({**settings, "params": [named[places[id(parameter)]] for parameter in known]})
        state |= {named[places[id(p)]]: copy.deepcopy(optimizer.state[p]) for p in known if p in optimizer.state}
    if not any(group["params"] for group in groups):
        raise LookupError("the optimizer has none of the network's parameters")
    twin_optimizer = type(optimizer)([group for group in groups if group["params"]], **_constants(optimizer))
    for group in twin_optimizer.param_groups:
        for name, value in group.items():  # a rate in a tensor must not be shared
            group[name] = value.clone() if isinstance(value, Tensor) else value
    twin_optimizer.state.update(state)
    return twin_optimizer


def _constants(optimizer: Optimizer) -> dict[str, Any]:
    """What the constructor insists on beside groups: the rate, where it has no default."""
    return {"lr": optimizer.defaults["lr"]} if "lr" in optimizer.defaults else {}
