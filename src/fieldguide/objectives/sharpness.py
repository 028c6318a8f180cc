"""Sharpness-aware minimisation: a low loss all around, not only here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.func import functional_call

from fieldguide.errors import FieldguideError
from fieldguide.objectives.phase import Batch, Metrics, Objective, Phase
from fieldguide.optim import global_norm


@dataclass(frozen=True)
class SharpnessAware:
    """SAM: the gradient at ``w + ρ g / ‖g‖``, the worst place nearby, moves w (Foret et al. 2021, eq. 2 and 3).

    It wraps any objective of one loss and goes with any optimizer; ``radius`` is ρ. The loss of a step is the one at
    the worst place, and ``sharpness`` its distance from the one here. Every micro-batch looks for its own worst place
    (the paper's m-sharpness, §4.1). The weights of the model never change for it, and running statistics see the first
    of the two passes only. Costs a second forward and backward pass and a copy of the weights.
    """

    objective: Objective
    radius: float

    @property
    def monitor(self) -> tuple[str, Literal["min", "max"]]:
        return self.objective.monitor

    def parts(self, model: nn.Module) -> Mapping[str, nn.Module]:
        parts = self.objective.parts(model)
        if len(parts) > 1:
            raise FieldguideError(
                f"sharpness: it needs an objective that trains one part, not {', '.join(parts)}; set sharpness = 0"
            )
        return parts

    def weight(self, batch: Batch) -> int:
        return self.objective.weight(batch)

    def metrics(self) -> Metrics:
        return self.objective.metrics()

    def step(self, model: nn.Module, batch: Batch) -> Iterator[Phase]:
        if not torch.is_grad_enabled():  # no slope, so no way up
            yield from self.objective.step(model, batch)
            return
        phase_of = _PhaseOf(self.objective, model)
        here = phase_of(batch)
        weights = {name: w for name, w in phase_of.named_parameters() if w.requires_grad}
        slopes = torch.autograd.grad(here.loss, list(weights.values()), allow_unused=True)
        felt = {name: slope for name, slope in zip(weights, slopes, strict=True) if slope is not None}
        reach = self.radius / global_norm([*felt.values()]).clamp(min=1e-12)
        above = {name: weights[name] + reach * slope for name, slope in felt.items()}
        buffers = {name: buffer.clone() for name, buffer in phase_of.named_buffers()}
        worst = functional_call(phase_of, above | buffers, (batch,))
        logs = {**worst.logs, "sharpness": (worst.loss - here.loss).detach()}
        yield Phase(worst.parameters, worst.loss, logs)


class _PhaseOf(nn.Module):
    """An objective's only phase as a module, so that it can be computed with other weights."""

    def __init__(self, objective: Objective, model: nn.Module):
        super().__init__()
        self.objective, self.model = objective, model
        self.training = model.training

    def forward(self, batch: Batch) -> Phase:
        phase, *more = self.objective.step(self.model, batch)
        if more:
            raise FieldguideError("sharpness: it needs an objective of one loss a step; set sharpness = 0")
        return phase


def sharpness_aware(objective: Objective, radius: float) -> Objective:
    """The objective as it is for a radius of 0, else within ``SharpnessAware``."""
    return SharpnessAware(objective, radius) if radius else objective
