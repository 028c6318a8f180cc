"""One course of a training: begun anew from a copy of its beginning, as it was run or with something changed."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

from fieldguide.doctor.history import History
from fieldguide.doctor.observe.replay import Kept
from fieldguide.doctor.preflight.random_state import random_state_kept
from fieldguide.doctor.probes.fork import taken_over
from fieldguide.doctor.treatment.beginning import Beginning
from fieldguide.doctor.treatment.samples import parted

EARLY = 20  # batches, whose losses are far from zero
RATE = 1e-3  # of the Adam that stands in for an optimizer that was never seen


@dataclass(frozen=True)
class Habits:
    """What a training's loop does that a plain one does not; a course without a remedy does the same."""

    clears: bool = True
    """Gradients are cleared before each step."""
    steps: bool = True
    """Steps are taken."""
    graph: bool = True
    """The loss has one."""
    training: bool = True
    """In training mode."""
    clip: float = math.inf
    factor: float = 1.0
    """What the loss is multiplied with before backward."""

    @classmethod
    def of(cls, history: History, batches: Sequence[Kept]) -> "Habits":
        stale = [sample["stale_gradient"] for sample in history.samples if "stale_gradient" in sample]
        clipped = history.series("clip_limit")
        return cls(
            clears=sum(stale) * 2 <= len(stale),
            steps=history.step > 0,
            graph=not history.fact("loss", "detached"),
            training=history.fact("model", "training") is not False,
            clip=clipped[-1] if clipped else math.inf,
            factor=_factor(history, batches),
        )


def _factor(history: History, batches: Sequence[Kept]) -> float:
    """Backward's loss over the loss function's, without a gradient scaler's part; 1 where it is not always the same."""
    factors = [batch.factor for batch in batches[:EARLY]]
    middle = median(factors) if factors else 1.0
    if any(abs(factor - middle) > 0.01 * abs(middle) for factor in factors):
        return 1.0
    accumulated = max(1, round(median(history.series("backwards") or [1.0])))
    return middle * accumulated / (history.series("scale") or [1.0])[0]


class Start:
    """What all courses of a training have in common. ValueError where it cannot be begun anew, with the reason."""

    def __init__(self, beginning: Beginning, history: History):
        if beginning.obstacle or beginning.network is None:
            raise ValueError(beginning.obstacle or "the network was not seen")
        if not beginning.all:
            raise ValueError("how its loss comes from the network's output could not be told")
        self.network, self.optimizer, self.rates = beginning.network, beginning.optimizer, beginning.rates
        self.replay = beginning
        self.habits = Habits.of(history, beginning.all)
        self.learned, self.held = parted(beginning.all)


class Course:
    """A copy of a training at its beginning. What it is changed by is set before ``learn``."""

    def __init__(self, start: Start):
        self.replay, self.held, self.batches = start.replay, start.held, start.learned
        self.model = copy.deepcopy(start.network).train(start.habits.training)
        self.optimizer = (
            torch.optim.Adam([p for p in self.model.parameters() if p.requires_grad], lr=RATE)
            if start.optimizer is None
            else taken_over(start.optimizer, start.network, self.model)
        )
        rates = [[group["lr"] for group in self.optimizer.param_groups]]
        self.rates = start.rates if start.optimizer is not None else rates
        habits = start.habits
        self.clears, self.steps, self.graph, self.training = habits.clears, habits.steps, habits.graph, habits.training
        self.factor = habits.factor
        self.clip: Callable[[Sequence[float]], float] = lambda norms: habits.clip
        """The limit, given the norms of the gradients so far."""
        self.inputs: Callable[[Kept], Kept] = lambda batch: batch
        self.outputs: Callable[[Tensor], Tensor] = lambda output: output
        """What is done to the loss's input."""

    def answer(self, batch: Kept) -> Tensor:
        """What the loss is given."""
        return self.outputs(self.replay.output(self.model, self.inputs(batch)))

    def loss_of(self, batch: Kept) -> Tensor:
        answer = self.answer(batch)
        return answer if batch.call is None or batch.target is None else batch.call(answer, batch.target)

    def learn(self, steps: int) -> list[float]:
        """The loss before each of so many steps; it ends early when it is not finite."""
        losses: list[float] = []
        norms: list[float] = []
        for step in range(steps):
            rates = self.rates[min(step, len(self.rates) - 1)]
            for place, group in enumerate(self.optimizer.param_groups):
                group["lr"] = rates[min(place, len(rates) - 1)]
            if self.clears:
                self.optimizer.zero_grad()
            loss = self.loss_of(self.batches[step % len(self.batches)])
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                break
            if self.graph:
                (self.factor * loss).backward()
            if self.steps:
                norms.append(nn.utils.clip_grad_norm_(self.model.parameters(), self.clip(norms)).item())
                self.optimizer.step()
        return losses

    @torch.no_grad()
    def loss(self) -> float:
        """Mean over the samples that it does not learn from, in evaluation mode; infinite when it is not finite.

        What a network or its loss draws at random is the same for every course.
        """
        self.model.eval()
        with random_state_kept():
            torch.manual_seed(0)
            losses = [self.loss_of(batch).item() for batch in self.held]
        self.model.train(self.training)
        mean = sum(losses) / len(losses)
        return mean if math.isfinite(mean) else math.inf
