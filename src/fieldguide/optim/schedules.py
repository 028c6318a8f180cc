"""The learning rate as a plain function of the step: ``schedule(step)`` is the factor on every group's base rate.

Steps count from 0, and the optimizer's first step already uses ``schedule(0)``, the first rung of the warm-up.
From ``steps`` on every schedule stays at ``final``: nothing rises again after the end.
"""

import math
from collections.abc import Callable
from functools import partial

from fieldguide.errors import unknown

Schedule = Callable[[int], float]


def cosine(step: int, steps: int, warmup: int = 0, final: float = 0.0) -> float:
    """Half a cosine from 1 to ``final`` after the warm-up (Loshchilov & Hutter 2017, SGDR, eq. 5, without restarts)."""
    return _rung(step, warmup) * (final + (1 - final) * (1 + math.cos(math.pi * _progress(step, steps, warmup))) / 2)


def linear(step: int, steps: int, warmup: int = 0, final: float = 0.0) -> float:
    """A straight line from 1 to ``final`` after the warm-up."""
    return _rung(step, warmup) * (1 + (final - 1) * _progress(step, steps, warmup))


def constant(step: int, steps: int, warmup: int = 0, final: float = 1.0) -> float:
    """1 after the warm-up; ``steps`` and ``final`` change nothing."""
    return _rung(step, warmup)


def build_schedule(name: str, steps: int, *, warmup: float = 0.0, final: float = 0.0) -> Schedule:
    """The named schedule over ``steps`` optimizer steps, of which the share ``warmup`` rises linearly.

    Raises:
        FieldguideError: an unknown schedule.
    """
    shapes = {"cosine": cosine, "linear": linear, "constant": constant}
    if name not in shapes:
        raise unknown("schedule", name, shapes)
    return partial(shapes[name], steps=steps, warmup=round(warmup * steps), final=final)


def _rung(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def _progress(step: int, steps: int, warmup: int) -> float:
    """How much of the way from the end of the warm-up to the end of training is done, 0 to 1."""
    return min(1.0, max(0.0, (step - warmup) / (steps - warmup))) if steps > warmup else 0.0
