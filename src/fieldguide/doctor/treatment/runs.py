"""Treatment of a training of ours: it ends at a critical finding, and goes on with the recipe that mends it best.

training ── critical ── back to the newest good checkpoint ─┬─ as it was ──┐
                                                            ├─ lr / 10 ────┤ loss of validation
                                                            └─ …  ─────────┘── the best: the training goes on
"""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from fieldguide.doctor.examination import Examination
from fieldguide.doctor.preflight import random_state_kept
from fieldguide.doctor.treatment.recipes import doses
from fieldguide.doctor.treatment.trials import STEPS, Treatment, Trial, number, ranked
from fieldguide.errors import FieldguideError
from fieldguide.objectives.phase import Objective
from fieldguide.trace import Record, read
from fieldguide.train.callbacks import Trace
from fieldguide.train.checkpoint import Restored
from fieldguide.train.checkpoint.reading import read_manifest
from fieldguide.train.failures import Diverged
from fieldguide.train.feeds import Feed
from fieldguide.train.fitting import feeds_of
from fieldguide.train.loop import Loop
from fieldguide.train.recipe import Recipe, from_mapping
from fieldguide.train.run import RunFolder

MOST = 2  # treatments of one training
WINDOW = 10  # steps before a checkpoint
RISEN = 0.5  # of the lowest loss


class Critical(FieldguideError):
    """Something critical was found that another recipe may mend; ``causes`` are the likeliest."""

    def __init__(self, what: str, causes: list[str]):
        super().__init__(f"doctor: {what}")
        self.causes = causes


@dataclass
class _Told:
    """Stands where a callback has its log, and passes the records on."""

    tell: Callable[[Record], object]
    failure: str | None = None
    position: int = 0

    def write(self, record: Record) -> None:
        self.tell(record)

    def rewind(self, position: int) -> None: ...


class Guard(Trace):
    """Examines a training while it goes, and ends it with ``Critical`` where a change of the recipe may help.

    ``done`` says what was done before it goes on, for the log. After ``most`` treatments nothing ends it any more.
    """

    def __init__(self, done: Sequence[str] = (), most: int = MOST):
        super().__init__(Path())
        self.log: Any = _Told(self._hear)
        self.done, self.most, self._news = done, most, done[-1:]
        self.examination = Examination()
        self._worst = ""

    def on_start(self, loop: Loop) -> None:
        super().on_start(loop)
        place = {"step": loop.progress.step, "epoch": loop.progress.epoch}
        news, self._news = self._news, ()  # a rollback starts it again
        for said in news:
            loop.callbacks.tell("on_failure", {"kind": "failure", **place, "message": said, "treated": True})

    def on_step(self, record: Record) -> None:
        self._hear(record)
        super().on_step(record)
        self._judge()

    def on_epoch(self, record: Record) -> None:
        self._hear(record)
        self._judge()

    def _hear(self, record: Record) -> None:
        for found in self.examination.add(record):
            if found.severity == "critical":
                self._worst = f"{found.slug} at step {found.step}: {found.evidence}"

    def _judge(self) -> None:
        worst, self._worst = self._worst, ""
        causes = self.examination.diagnosis().causes if worst else []
        if worst and len(self.done) < self.most and any(doses(self.loop.recipe, causes)):
            raise Critical(worst, causes)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Change:
    """What a treatment came to, and what the training goes on with."""

    treatment: Treatment
    step: int
    """Of the checkpoint that it goes on from."""
    recipe: Recipe
    """The winner's, or the one that it had."""

    def __str__(self) -> str:
        winner = self.treatment.winner
        with_what = f"with {winner.dose} ({winner.cause})" if winner else "as it was: no fix is clearly better"
        return f"back to step {self.step} and on {with_what}"


def treat_run(
    model: nn.Module, data: Any, objective: Objective, run: RunFolder, causes: Sequence[str], steps: int = STEPS
) -> Change:
    """Tries recipes on copies of the network from the newest good checkpoint; what wins is left to be used.

    Raises:
        FieldguideError: there is no good checkpoint.
    """
    restored = _last_good(run)
    recipe = from_mapping(restored.stored["recipe"])
    feeds = feeds_of(data, recipe, next(model.parameters()).device)

    def loss(other: Recipe) -> float:
        with random_state_kept(), warnings.catch_warnings(action="ignore"):
            return _loss_after(copy.deepcopy(model), feeds, objective, recipe, other, restored, steps)

    control = loss(recipe)
    tried = [(Trial(dose.cause, dose.fix, dose.title), loss(dose.recipe), dose) for dose in doses(recipe, causes)]
    treatment = Treatment(steps, control=number(control), trials=ranked([one[:2] for one in tried], control))
    winner = treatment.winner
    chosen = next((dose.recipe for _, _, dose in tried if winner and dose.title == winner.dose), recipe)
    return Change(treatment, restored.step, chosen)


def _last_good(run: RunFolder) -> Restored:
    """The newest checkpoint at which the training loss was not much above the lowest of all that are kept."""
    losses = [(record["step"], record["loss"]) for record in read(run.metrics, "step")]

    def level(path: Path) -> float:
        step = read_manifest(path).step
        before = [loss for at, loss in losses if step - WINDOW < at <= step] or [loss for _, loss in losses[:3]]
        return median(before) if before and math.isfinite(sum(before)) else math.inf

    kept = {path: level(path) for path in run.checkpoints.numbered()}
    lowest = min(kept.values(), default=math.inf)
    good = [path for path, own in kept.items() if own <= lowest + RISEN * abs(lowest)]
    with run.locked():
        if good and good[-1] != run.checkpoints.numbered()[-1]:
            run.checkpoints.clean(good[-1])
        restored = run.checkpoints.newest()
    if restored is None:
        raise FieldguideError(f"doctor: {run.path} has no checkpoint that a treatment could go back to")
    return restored


def _loss_after(
    model: nn.Module,
    feeds: Sequence[Feed | None],
    objective: Objective,
    recipe: Recipe,
    other: Recipe,
    restored: Restored,
    steps: int,
) -> float:
    """Of validation, or of the last tenth of the steps where there is none; infinite when it diverged."""
    train, val, _ = feeds
    assert train
    loop = Loop(model, train, val, objective, other)
    numbers = loop.optimizers.numbers()
    loop.load_state_dict(restored.stored)
    if other.optimizer != recipe.optimizer:
        loop.optimizers.retune(numbers)
    losses: list[float] = []
    model.train()
    try:
        while len(losses) < steps and loop.progress.step < loop.steps:
            batches = train.batches(loop.progress.epoch, loop.progress.position)
            while len(losses) < steps and loop.progress.step < loop.steps and (window := loop.fetch(batches)):
                losses.append(loop.take_step(window)["loss"])
            if len(losses) < steps:
                loop.finish_epoch()
        last = losses[-max(1, steps // 10) :]
        found = loop.recovery.evaluate(val)["loss"] if val else sum(last) / len(last)
    except Diverged:
        return math.inf
    return found if math.isfinite(found) else math.inf
