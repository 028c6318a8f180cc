"""Learning rates as plain functions of the step: each gives the factor on the base rate, and needs no optimizer.

Steps count from 0. All of them begin at the base rate (factor 1), the one-cycle policies apart, and ``warmed`` puts a
linear rise before any of them. ``joined`` sets several one after the other. From ``steps`` on a curve stays where it
has arrived or goes on falling: nothing rises after the end.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

Schedule = Callable[[int], float]
"""The factor for each step."""
Bend = Callable[[float], float]
"""How a way is gone: the share of it that is behind (0 to 1) to the share of the fall that is done (0 to 1)."""


def straight(share: float) -> float:
    return share


def half_cosine(share: float) -> float:
    return (1 - math.cos(math.pi * share)) / 2


def root(share: float) -> float:
    """Fast first and slow at the end (Hägele et al. 2024, "Scaling Laws … Beyond Fixed Training Durations", §4)."""
    return math.sqrt(share)


def constant(step: int) -> float:
    """1 at every step."""
    return 1.0


def cosine(step: int, steps: int, final: float = 0.0) -> float:
    """Half a cosine from 1 to ``final`` (Loshchilov & Hutter 2017, SGDR, eq. 5, without restarts)."""
    return final + (1 - final) * (1 + math.cos(math.pi * _share(step, steps))) / 2


def linear(step: int, steps: int, final: float = 0.0) -> float:
    """A straight line from 1 to ``final``."""
    return 1 + (final - 1) * _share(step, steps)


def polynomial(step: int, steps: int, final: float = 0.0, power: float = 0.9) -> float:
    """What is left of the way, to a power (Liu et al. 2015, ParseNet; 0.9 in Chen et al. 2017, DeepLab, §4.1)."""
    return final + (1 - final) * (1 - _share(step, steps)) ** power


def exponential(step: int, steps: int, final: float) -> float:
    """The same share is lost at each step, so that ``final`` (above 0) is reached at the end."""
    return final ** _share(step, steps)


def inverse_sqrt(step: int, warmup: int = 1) -> float:
    """Up in ``warmup`` steps, then down with 1/√step (Vaswani et al. 2017, §5.3, eq. 3), with the peak scaled to 1.

    The paper's own rates come with the base rate ``transformer_rate(d_model, warmup)``.
    """
    number = step + 1  # the paper counts from 1
    return min(number / warmup, math.sqrt(warmup / number))


def transformer_rate(d_model: int, warmup: int) -> float:
    """The base rate with which ``inverse_sqrt`` is Vaswani et al. 2017, eq. 3: 1 / √(d_model · warmup)."""
    return (d_model * warmup) ** -0.5


def stairs(step: int, milestones: Sequence[int], gamma: float = 0.1) -> float:
    """Times ``gamma`` from each milestone on (He et al. 2016, ResNet, §3.4)."""
    return gamma ** sum(step >= milestone for milestone in milestones)


def stable(step: int, steps: int, cooldown: int, final: float = 0.0, bend: Bend = root) -> float:
    """1 until ``cooldown`` steps before the end, then down to ``final`` (Hu et al. 2024, MiniCPM, §4.2).

    The shape of the fall is Hägele et al.'s root; MiniCPM's own is exponential.
    """
    return 1 + (final - 1) * bend(_share(step - (steps - cooldown), cooldown))


def restarts(step: int, cycles: Sequence[int], final: float = 0.0) -> float:
    """One cosine after the other, each of its own length (Loshchilov & Hutter 2017, SGDR, eq. 5); then ``final``."""
    return joined(step, [(length, partial(cosine, steps=length, final=final)) for length in cycles])


def one_cycle(
    step: int, steps: int, rise: float = 0.3, start: float = 0.04, final: float = 0.0, bend: Bend = half_cosine
) -> float:
    """Up from ``start`` to 1 in the share ``rise`` of the steps, then down to ``final`` (Smith & Topin 2018, §2).

    As torch's ``OneCycleLR`` counts: the last step, ``steps − 1``, has ``final``.
    """
    return through(step, [(0.0, start), (rise * steps - 1, 1.0), (steps - 1.0, final)], bend)


def three_phase(
    step: int, steps: int, rise: float = 0.3, start: float = 0.04, final: float = 0.0, bend: Bend = half_cosine
) -> float:
    """One cycle as its paper draws it: up, down to ``start`` in the same time, and from there to ``final``."""
    peak = rise * steps - 1
    return through(step, [(0.0, start), (peak, 1.0), (2 * peak, start), (steps - 1.0, final)], bend)


# ------------------------------------------------------------------------------------------------------ combinations


def warmed(step: int, schedule: Schedule, warmup: int) -> float:
    """A linear rise to the schedule's first value, which begins after it (Goyal et al. 2017, §2.2).

    Step 0 is the first rung, ``1 / warmup``, and not 0: no step is wasted.
    """
    return (min(1.0, (step + 1) / warmup) if warmup else 1.0) * schedule(max(0, step - warmup))


def joined(step: int, parts: Sequence[tuple[int, Schedule]]) -> float:
    """Each ``(length, schedule)`` after the one before, from its own step 0; the last one goes on."""
    for length, schedule in parts[:-1]:
        if step < length:
            return schedule(step)
        step -= length
    return parts[-1][1](step)


def through(step: int, points: Sequence[tuple[float, float]], bend: Bend = straight) -> float:
    """Through ``(step, value)`` points in their order; the last value stays."""
    passed = sum(step > at for at, _ in points[1:-1])
    (start, before), (end, after) = points[passed : passed + 2]
    share = min(1.0, (step - start) / (end - start)) if end > start else 1.0
    return before + (after - before) * bend(share)


def _share(step: int, steps: int) -> float:
    """How much of the way is behind, 0 to 1."""
    return min(1.0, max(0.0, step / steps)) if steps > 0 else float(step > 0)
