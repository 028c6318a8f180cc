"""What each fix does to a course, by the words of ``Fix.apply``. A fix may come in several doses, each tried by itself.

Adding one is adding a line to ``REMEDIES``. What a course cannot do, because its loss, its samples or its code would
have to be others, is not in the table and left to a person.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal, get_args

import torch
from torch import nn

from fieldguide.doctor.finding import Fix
from fieldguide.doctor.treatment import surgery
from fieldguide.doctor.treatment.course import Course
from fieldguide.doctor.treatment.samples import joined, rows_of
from fieldguide.doctor.treatment.scaling import standardise_inputs, standardise_targets

RAMP = 0.2  # of the recorded steps
Reach = Literal["settings", "data", "network"]
"""What a fix changes, the smallest first."""
REACHES: tuple[Reach, ...] = get_args(Reach)


@dataclass(frozen=True)
class Remedy:
    """One dose of a fix, in words and as a change of a course that has not begun."""

    title: str
    change: Callable[[Course], object]
    reach: Reach = "settings"


def executable(fix: Fix) -> bool:
    """Whether it can be tried on a course; others are for a person to do."""
    return fix.apply in REMEDIES


def _rates(course: Course, factor: float) -> None:
    course.rates = [[factor * rate for rate in rates] for rates in course.rates]


def _rate(*factors: float) -> tuple[Remedy, ...]:
    return tuple(
        Remedy(
            f"learning rate × {f:,.0f}" if f > 1 else f"learning rate / {1 / f:,.0f}",
            lambda course, f=f: _rates(course, f),
        )
        for f in factors
    )


def _set(name: str, value: object) -> Callable[[Course], object]:
    return lambda course: setattr(course, name, value)


def _each_group(change: Callable[[dict], object]) -> Callable[[Course], object]:
    return lambda course: [change(group) for group in course.optimizer.param_groups]


def _constant(course: Course) -> None:
    course.rates = course.rates[:1]


def _warm_up(course: Course) -> None:
    rates = course.rates * 100 if len(course.rates) == 1 else course.rates
    ramp = max(1, round(RAMP * len(rates)))
    course.rates = [[min(1.0, (step + 1) / ramp) * rate for rate in own] for step, own in enumerate(rates)]


def _clip(course: Course) -> None:
    course.clip = lambda norms: 2 * median(norms) if norms else math.inf


def _constants(group: dict) -> None:
    group.update({name: value for name, value in {"betas": (0.9, 0.999), "eps": 1e-8}.items() if name in group})


def _adam(course: Course) -> None:
    learned = [parameter for group in course.optimizer.param_groups for parameter in group["params"]]
    course.optimizer, course.rates = torch.optim.AdamW(learned, lr=1e-3), [[1e-3]]


def _fresh(course: Course) -> None:
    """What the optimizer remembers of the old values goes with them."""
    surgery.afresh(course.model)
    course.optimizer.state.clear()


def _upright(course: Course) -> None:
    course.factor = abs(course.factor)


def _mean(course: Course) -> None:
    """A factor that was put before the loss goes; a sum over the samples is divided by their number."""
    size = len(course.batches[0].target) if course.batches[0].target is not None else 1
    course.factor = math.copysign(1.0 if abs(course.factor) > 1.5 else 1 / size, course.factor)


def _logarithm(course: Course) -> None:
    """Softmax of the logarithm of a distribution is that distribution: the second one does nothing."""
    course.outputs = lambda output: output.clamp_min(torch.finfo(output.dtype).tiny).log()


def _everything(course: Course) -> None:
    """All parameters are learned."""
    known = {id(parameter) for group in course.optimizer.param_groups for parameter in group["params"]}
    for parameter in course.model.parameters():
        parameter.requires_grad_(True)
    missing = [parameter for parameter in course.model.parameters() if id(parameter) not in known]
    if missing:
        course.optimizer.add_param_group({"params": missing})


def _all(*changes: Callable[[Course], object]) -> Callable[[Course], object]:
    return lambda course: [change(course) for change in changes]


def _replaced(change: Callable[[nn.Module], object]) -> Callable[[Course], object]:
    """The network is another; the optimizer learns what it has now, with the settings of its first group."""

    def operate(course: Course) -> None:
        change(course.model)
        group = {name: value for name, value in course.optimizer.param_groups[0].items() if name != "params"}
        course.optimizer.param_groups.clear()
        course.optimizer.state.clear()
        course.optimizer.add_param_group(group | {"params": list(course.model.parameters())})

    return operate


def _larger(course: Course) -> None:
    rows, size = rows_of(course.batches), len(rows_of(course.batches[:1]))
    course.batches = joined(rows, 8 * size)


def _shuffled(course: Course) -> None:
    rows, size = rows_of(course.batches), len(rows_of(course.batches[:1]))
    course.batches = joined([rows[place] for place in torch.randperm(len(rows)).tolist()], size)


def _finite(course: Course) -> None:
    sound = [row for row in rows_of(course.batches) if surgery.finite(row)]
    course.batches = joined(sound, len(rows_of(course.batches[:1])))
    course.held = joined([row for row in rows_of(course.held) if surgery.finite(row)], 256)


REMEDIES: dict[str, tuple[Remedy, ...]] = {
    "lr / 3": _rate(1 / 3),
    "lr / 10": _rate(1 / 3, 1 / 10, 1 / 100, 1 / 1000),
    "lr / 100": _rate(1 / 30, 1 / 100),
    "lr * 10": _rate(10.0, 100.0, 1e3, 1e4),
    "lr constant": (Remedy("the first rate throughout", _constant),),
    "warm up": (Remedy("rates that warm up", _warm_up),),
    "adam": (Remedy("AdamW with a rate of 1e-3", _adam),),
    "constants": (Remedy("betas of (0.9, 0.999), eps of 1e-8", _each_group(_constants)),),
    "weight_decay / 100": (
        Remedy("weight decay / 100", _each_group(lambda g: g.update(weight_decay=g.get("weight_decay", 0) / 100))),
        Remedy("no weight decay", _each_group(lambda g: g.update(weight_decay=0.0))),
    ),
    "clip": (Remedy("gradients clipped at twice their median", _clip),),
    "clip none": (Remedy("no clipping", _set("clip", lambda norms: math.inf)),),
    "zero_grad": (Remedy("gradients cleared before each step", _set("clears", True)),),
    "step": (Remedy("optimizer steps taken", _set("steps", True)),),
    "keep graph": (Remedy("backward on the loss function's own value", _set("graph", True)),),
    "flip sign": (Remedy("the loss without its minus sign", _upright),),
    "mean": (Remedy("the mean of the loss", _mean),),
    "modes": (Remedy("training mode while training", _all(_set("training", True), lambda c: c.model.train())),),
    "add parameters": (Remedy("all parameters in the optimizer", _everything),),
    "unfreeze": (Remedy("all parameters unfrozen", _everything),),
    "init": (Remedy("new initial values", _fresh, "network"),),
    "revive": (Remedy("new initial values", _fresh, "network"),),
    "dropout 0.2": (Remedy("dropout of 20 %", lambda course: surgery.dropout(course.model, 0.2), "network"),),
    "remove softmax": (Remedy("no softmax before the loss", _logarithm, "network"),),
    "add activation": (Remedy("GELU after every hidden layer", _replaced(surgery.activated), "network"),),
    "normalise": (
        Remedy("normalised GELU activations and shortcuts", _replaced(surgery.normalised), "network"),
        Remedy(
            "normalised GELU activations, shortcuts, AdamW at 1e-3",
            _all(_replaced(surgery.normalised), _adam),
            "network",
        ),
    ),
    "gated cell": (Remedy("GRU instead of a plain recurrence", _replaced(surgery.gated), "network"),),
    "linear head": (Remedy("a linear last layer", _replaced(surgery.linear_head), "network"),),
    "batch * 8": (Remedy("batches of eight times the size", _larger),),
    "shuffle": (Remedy("samples in random order", _shuffled, "data"),),
    "drop non-finite": (Remedy("samples that are not finite left out", _finite, "data"),),
    "standardise inputs": (Remedy("inputs standardised", standardise_inputs, "data"),),
    "standardise targets": (Remedy("targets standardised", standardise_targets, "data"),),
}
