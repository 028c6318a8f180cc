"""A training's plan: which rate, weight decay and momentum each optimizer step uses."""

from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, Protocol, runtime_checkable

from torch.optim import Optimizer

from fieldguide.errors import FieldguideError, unknown
from fieldguide.optim.optimizers import set_rate
from fieldguide.optim.schedules.curves import (
    Schedule,
    constant,
    cosine,
    exponential,
    half_cosine,
    inverse_sqrt,
    linear,
    one_cycle,
    polynomial,
    restarts,
    stable,
    stairs,
    three_phase,
    through,
    warmed,
)
from fieldguide.optim.schedules.plateau import Plateau


@runtime_checkable
class ScheduleSettings(Protocol):
    """The numbers of ``fieldguide.Recipe().schedule``, which explains them; anything with these fields will do."""

    @property
    def name(self) -> str: ...
    @property
    def warmup(self) -> float: ...
    @property
    def final(self) -> float: ...
    @property
    def weight_decay_final(self) -> float: ...
    @property
    def power(self) -> float: ...
    @property
    def milestones(self) -> tuple[float, ...]: ...
    @property
    def gamma(self) -> float: ...
    @property
    def plateau_epochs(self) -> int: ...
    @property
    def cooldown(self) -> float: ...
    @property
    def cycles(self) -> int: ...
    @property
    def growth(self) -> float: ...
    @property
    def rise(self) -> float: ...
    @property
    def start(self) -> float: ...
    @property
    def cycle_momentum(self) -> tuple[float, float]: ...


@dataclass(frozen=True)
class Setting:
    """What one optimizer step uses."""

    rate: float
    """Factor on every group's base rate."""
    weight_decay: float
    """Factor on every group's own weight decay."""
    momentum: float | None
    """Momentum, or Adam's first beta; None leaves the optimizer's own."""


class Plan:
    """Three functions of the step, and the plateau's factor on the rate; ``at`` shows them without training."""

    def __init__(
        self,
        rate: Schedule,
        weight_decay: Schedule = constant,
        momentum: Schedule | None = None,
        plateau: Plateau | None = None,
    ):
        self.rate, self.weight_decay, self.momentum = rate, weight_decay, momentum
        self.plateau = plateau or Plateau()

    def at(self, step: int) -> Setting:
        """What the step of this number, the first is 0, uses."""
        momentum = self.momentum(step) if self.momentum else None
        return Setting(self.rate(step) * self.plateau.factor, self.weight_decay(step), momentum)

    def set(self, optimizer: Optimizer, step: int) -> float:
        """Gives each group of the optimizer its part; returns the rate of a group whose share is the whole."""
        setting = self.at(step)
        for group in optimizer.param_groups:
            group["weight_decay"] = group.setdefault("base_weight_decay", group["weight_decay"]) * setting.weight_decay
            if setting.momentum is not None:
                _set_momentum(group, setting.momentum)
        return set_rate(optimizer, setting.rate)

    def epoch_done(self, improved: bool) -> None:
        """Tells the plan whether this epoch was the best so far."""
        self.plateau.epoch_done(improved)

    def state_dict(self) -> dict[str, Any]:
        return self.plateau.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.plateau.load_state_dict(state)


def build_plan(settings: ScheduleSettings, steps: int) -> Plan:
    """The plan of a recipe's schedule over ``steps`` optimizer steps.

    Raises:
        FieldguideError: an unknown schedule.
    """
    final = settings.weight_decay_final
    return Plan(
        build_schedule(settings, steps),
        constant if final == 1 else partial(cosine, steps=steps, final=final),
        _momentum(settings, steps),
        Plateau(settings.plateau_epochs, settings.gamma, settings.final) if settings.name == "plateau" else None,
    )


def build_schedule(settings: ScheduleSettings, steps: int) -> Schedule:
    """The named learning-rate schedule over ``steps`` optimizer steps; shares of the training become whole steps.

    Raises:
        FieldguideError: an unknown schedule.
    """
    s, warmup = settings, round(settings.warmup * steps)
    rest, cooldown = steps - warmup, round(settings.cooldown * steps)
    curves: dict[str, Schedule] = {
        "cosine": partial(cosine, steps=rest, final=s.final),
        "linear": partial(linear, steps=rest, final=s.final),
        "polynomial": partial(polynomial, steps=rest, final=s.final, power=s.power),
        "exponential": partial(exponential, steps=rest, final=s.final),
        "step": partial(stairs, milestones=[max(1, round(at * steps) - warmup) for at in s.milestones], gamma=s.gamma),
        "warmup_stable_decay": partial(stable, steps=rest, cooldown=min(cooldown, rest), final=s.final),
        "restarts": partial(restarts, cycles=_cycles(rest, s.cycles, s.growth), final=s.final),
        "plateau": constant,
        "constant": constant,
    }
    whole: dict[str, Schedule] = {  # they have a rise of their own
        "inverse_sqrt": partial(inverse_sqrt, warmup=max(1, warmup)),
        "one_cycle": partial(one_cycle, steps=steps, rise=s.rise, start=s.start, final=s.final),
        "three_phase": partial(three_phase, steps=steps, rise=s.rise, start=s.start, final=s.final),
    }
    if s.name not in curves | whole:
        raise unknown("schedule", s.name, curves | whole)
    return whole[s.name] if s.name in whole else partial(warmed, schedule=curves[s.name], warmup=warmup)


def _momentum(settings: ScheduleSettings, steps: int) -> Schedule | None:
    """High where the rate is low and low where it is high; None leaves the optimizer's own."""
    (low, high), peak = settings.cycle_momentum, settings.rise * steps - 1
    ends = {"one_cycle": steps - 1.0, "three_phase": 2 * peak}
    if settings.name not in ends or low == high:
        return None
    return partial(through, points=[(0.0, high), (peak, low), (ends[settings.name], high)], bend=half_cosine)


def _cycles(steps: int, count: int, growth: float) -> list[int]:
    """Lengths of ``count`` cycles that fill the steps, each ``growth`` times as long as the one before."""
    ends = [*accumulate(growth**cycle for cycle in range(count))]
    turns = [0, *(round(steps * end / ends[-1]) for end in ends)]
    return [end - begin for begin, end in pairwise(turns) if end > begin] or [steps]


def _set_momentum(group: dict[str, Any], value: float) -> None:
    if "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    elif group.setdefault("base_momentum", group.get("momentum")):  # a cycle may pass through 0
        group["momentum"] = value
    else:
        raise FieldguideError(
            "schedule: this one moves the momentum and the optimizer has none; set optimizer.momentum above 0, "
            "or two equal numbers as schedule.cycle_momentum"
        )
