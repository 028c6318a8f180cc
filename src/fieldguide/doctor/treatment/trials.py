"""The fixes of the likeliest causes, each tried for an equal budget from the same beginning, and judged alike.

beginning ── as it was run ─────────────┐
    │─────── with the first fix ────────┤  loss on samples that none of them has learned from
    │─────── with the second ───────────┤
    └─────── …                          ┘
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from fieldguide.doctor.finding import Fix
from fieldguide.doctor.history import History
from fieldguide.doctor.preflight import random_state_kept
from fieldguide.doctor.rules import RULES
from fieldguide.doctor.treatment.beginning import Beginning
from fieldguide.doctor.treatment.course import Course, Start
from fieldguide.doctor.treatment.remedies import REACHES, REMEDIES, Reach, Remedy, executable

STEPS = 100
CAUSES = 3
USUAL = ("lr-too-high", "lr-too-low", "vanishing-gradient")  # what lies behind many a symptom
CLEAR = 0.05  # of the loss without a fix: what is no better by so much is no winner
MOVED, FURTHER = 0.003, 2.0  # of the loss at the beginning; times what no fix gains: less is no progress
NEAR = 0.1  # of the way to the best: among what comes so close the likelier cause and the smaller change are preferred


@dataclass(frozen=True)
class Trial:
    """What one dose of a fix came to."""

    cause: str
    fix: str
    """In words, as the finding has it."""
    dose: str
    reach: Reach = "settings"
    loss: float | None = None
    """After the budget, on held-out samples; None when it was not finite."""
    share: float | None = None
    """Of the distance from the course without a fix to the best that was tried; None where that one was lost."""


@dataclass(frozen=True)
class Treatment:
    """What the trials came to. Losses are means over held-out samples, in the unit of the training's loss function."""

    steps: int
    before: float | None = None
    """At the beginning."""
    control: float | None = None
    """After as many steps as it was run; None when it was not finite."""
    trials: list[Trial] = field(default_factory=list)
    """The best first; see ``ranked``."""
    for_you: list[tuple[str, str]] = field(default_factory=list)
    """Cause and fix of what no fork can try."""
    obstacle: str | None = None
    """Why nothing could be tried."""

    @property
    def winner(self) -> Trial | None:
        """The first that is clearly better than no fix, or with which the loss falls more than twice as far."""
        limit = math.inf if self.control is None else self.control - CLEAR * abs(self.control)
        if self.before is not None and self.control is not None:
            gained, least = self.before - self.control, MOVED * abs(self.before)
            limit = max(limit, self.before - max(least, FURTHER * gained))
        return next((trial for trial in self.trials if trial.loss is not None and trial.loss < limit), None)

    def to_json(self) -> dict[str, Any]:
        winner = self.winner
        return {**asdict(self), "for_you": [{"cause": c, "fix": f} for c, f in self.for_you],
                "winner": asdict(winner) if winner else None}  # fmt: skip


def proposed(causes: Sequence[str]) -> list[tuple[str, Fix]]:
    """Cause and fix, for the likeliest causes in their order; a fix that two causes share is the first one's."""
    by_slug = {rule.slug: rule.fixes for rule in RULES}
    first: dict[str, tuple[str, Fix]] = {}
    for cause in causes[:CAUSES]:
        for fix in by_slug.get(cause, ()):
            first.setdefault(fix.apply or fix.title, (cause, fix))
    return list(first.values())


def doses(fixes: Sequence[tuple[str, Fix]]) -> Iterator[tuple[str, Fix, Remedy]]:
    """Every dose of what can be tried, each once."""
    seen: set[str] = set()
    for cause, fix in fixes:
        for remedy in REMEDIES.get(fix.apply, ()):
            if remedy.title not in seen:
                seen.add(remedy.title)
                yield cause, fix, remedy


def course_of(start: Start, remedy: Remedy | None, steps: int) -> Course:
    """A course that has gone so far; the same every time that it is asked for."""
    torch.manual_seed(0)
    course = Course(start)
    if remedy:
        remedy.change(course)
    course.learn(steps)
    return course


def treat(recording: Any, history: History, causes: Sequence[str], steps: int = STEPS) -> Treatment:
    """Tries the fixes of the first three causes on copies, and where none of them helps the usual ones.

    The training and the random generators stay untouched.
    """
    fixes = proposed(causes)
    for_you = [(cause, fix.title) for cause, fix in fixes if not executable(fix)]
    if not any(executable(fix) for _, fix in fixes):
        return Treatment(steps, for_you=for_you, obstacle="nothing was found that a fork could mend")
    if not isinstance(recording, Beginning):
        return Treatment(steps, for_you=for_you, obstacle="no training was seen from its beginning")
    with random_state_kept(), torch.enable_grad(), redirect_stdout(io.StringIO()):
        try:
            start = Start(recording, history)
            before, control = Course(start).loss(), course_of(start, None, steps).loss()
        except Exception as problem:  # a network may be anything: it is said, and is no error
            return Treatment(steps, for_you=for_you, obstacle=" ".join(str(problem).split())[:200])
        treatment = Treatment(steps, number(before), number(control), for_you=for_you)
        known: dict[str, tuple[Trial, float]] = {}
        for proposals in (fixes, proposed(USUAL)):  # the usual ones only where none of the others helps
            for cause, fix, remedy in doses(proposals):
                if remedy.title not in known:
                    with suppress(LookupError):  # this network has nothing that it could change
                        trial = Trial(cause, fix.title, remedy.title, remedy.reach)
                        known[remedy.title] = trial, _loss_after(start, remedy, steps)
            treatment = replace(treatment, trials=ranked([*known.values()], control))
            if treatment.winner:
                break
    return treatment


def _loss_after(start: Start, remedy: Remedy, steps: int) -> float:
    try:
        return course_of(start, remedy, steps).loss()
    except LookupError:
        raise
    except Exception:  # what it is changed to may not run at all
        return math.inf


def ranked(tried: Sequence[tuple[Trial, float]], control: float) -> list[Trial]:
    """The trials with their losses, the lowest first, and what share of the best one's gain each has.

    Before them come those that gain nearly as much as the best: of the likelier cause, which is tried earlier, then
    with the smaller reach.
    """
    best = min((loss for _, loss in tried), default=math.inf)
    causes = list(dict.fromkeys(trial.cause for trial, _ in tried))
    ordered = []
    for trial, loss in sorted(tried, key=lambda pair: pair[1]):
        known = math.isfinite(loss) and math.isfinite(control) and best < control
        share = (control - loss) / (control - best) if known else None
        ordered.append(replace(trial, loss=number(loss), share=share))
    near = [trial for trial in ordered if trial.share is not None and trial.share >= 1 - NEAR]
    near.sort(key=lambda trial: (causes.index(trial.cause), REACHES.index(trial.reach)))
    return near + ordered[len(near) :]


def number(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None
