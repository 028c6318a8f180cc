"""Which learning rate? A short training whose rate grows from step to step shows where learning begins and breaks."""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.objectives.phase import Batch, Objective
from fieldguide.optim import Plan
from fieldguide.train.failures import Diverged, out_of_memory_explained
from fieldguide.train.fitting import feeds_of
from fieldguide.train.loop import Loop
from fieldguide.train.randomness import seed_everything, untouched
from fieldguide.train.recipe import Recipe

EXPLODED = 4.0
"""The test stops when the smoothed loss is this many times its lowest value."""


@dataclass(frozen=True)
class RateRange:
    """The loss at each rate that was tried, and what it says about the base rate."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    """As measured, before the step with this rate."""
    smoothed: tuple[float, ...]
    """Median of each loss and its neighbours."""
    steepest: float
    """The suggestion: where the smoothed loss falls fastest against the logarithm of the rate."""
    tenth: float
    """A tenth of the rate at the lowest smoothed loss, the other usual choice."""


def lr_range_test(
    model: nn.Module,
    data: Any,
    objective: Objective,
    recipe: Recipe | None = None,
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int = 100,
) -> RateRange:
    """Trains a copy of the model for ``steps`` optimizer steps at rates that grow by the same factor each time.

    Smith 2017, "Cyclical Learning Rates", §3.3, with a geometric instead of a linear ramp. ``data`` is what ``fit``
    takes; optimizer, clipping and augmentation are the recipe's. It stops as soon as the loss explodes. The model, its
    gradients and the random generators stay as they are, bit for bit, and so does any optimizer of yours.

    Raises:
        FieldguideError: rates or steps that make no range, or a loss that never falls in it.
    """
    recipe, device = recipe or Recipe(), next(model.parameters()).device
    if not (0 < lowest < highest and steps >= 10):
        raise FieldguideError(f"range test: needs 0 < lowest < highest and 10 steps, not {lowest}, {highest}, {steps}")
    with untouched(), out_of_memory_explained(recipe, device):
        seed_everything(recipe.seed)
        trained, goal = deepcopy((model, objective))
        train, _, _ = feeds_of(data, recipe, device)
        plain = replace(recipe, on_bad_batch="stop", loss_spike=0.0)
        loop = Loop(trained, train, None, goal, plain.with_epochs(len(train) * recipe.batch_size))
        growth = (highest / lowest) ** (1 / (steps - 1))
        loop.plan = Plan(lambda step: lowest / recipe.optimizer.lr * growth**step)
        losses = _losses(loop, steps)
    return _read([lowest * growth**step for step in range(len(losses))], losses)


def _losses(loop: Loop, steps: int) -> list[float]:
    losses: list[float] = []
    loop.model.train()
    loop.model.zero_grad()
    for _, window in zip(range(steps), _windows(loop), strict=False):
        try:
            losses.append(loop.take_step(window)["loss"])
        except Diverged:
            break
        if not math.isfinite(losses[-1]):
            losses.pop()
            break
        smoothed = _medians(losses)
        if smoothed[-1] > EXPLODED * min(smoothed):
            break
    return losses


def _windows(loop: Loop) -> Iterator[list[Batch]]:
    """The windows of one epoch after the other."""
    for epoch in count():
        batches = loop.train.batches(epoch)
        while window := loop.fetch(batches):
            yield window


def _medians(losses: Sequence[float], reach: int = 2) -> list[float]:
    """Centred, so that no value lags behind its rate; one odd batch does not count."""
    windows = (losses[max(0, i - reach) : i + reach + 1] for i in range(len(losses)))
    return [sorted(window)[len(window) // 2] for window in windows]


def _read(rates: Sequence[float], losses: Sequence[float]) -> RateRange:
    smoothed = _medians(losses)
    bottom = min(range(len(smoothed)), key=smoothed.__getitem__, default=0)
    reach = max(2, len(losses) // 20)
    slopes = {i: smoothed[i + reach] - smoothed[i - reach] for i in range(reach, bottom - reach + 1)}
    if not slopes or min(slopes.values()) >= 0:
        raise FieldguideError(
            f"range test: the loss does not fall anywhere between {rates[0] if rates else 0:.3g} and "
            f"{rates[-1] if rates else 0:.3g}; try a lower or wider range, or more steps"
        )
    steepest = min(slopes, key=slopes.__getitem__)
    return RateRange(tuple(rates), tuple(losses), tuple(smoothed), rates[steepest], rates[bottom] / 10)
