"""What the verb ``train`` does: data, network, training, test, report; a new run or the rest of an interrupted one."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import torch
from torch import nn

from fieldguide.cli.doctor import examined, records_of
from fieldguide.cli.doctor_page import headline
from fieldguide.cli.job import Job
from fieldguide.cli.progress import progress
from fieldguide.cli.tasks import task_of
from fieldguide.cli.tasks.task import Task
from fieldguide.cli.terminal import say_facts, say_line
from fieldguide.cli.tracking import Tracker, tracked
from fieldguide.cli.treated import treated
from fieldguide.doctor.cards import cards
from fieldguide.errors import FieldguideError
from fieldguide.report import build_report
from fieldguide.report.figures import shown
from fieldguide.report.story import duration
from fieldguide.trace import Log, Record
from fieldguide.train.callbacks import Callback
from fieldguide.train.distributed import ALONE, Strategy
from fieldguide.train.failures import BadData
from fieldguide.train.fitting import Run, fit
from fieldguide.train.recipe import Recipe, load_recipe
from fieldguide.train.run import RunFolder, replace_text

HEADLINES = 3
"""Test figures that are said at the end; the report has all."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run and everything it needs."""

    task: Task
    model: nn.Module
    recipe: Recipe
    run: RunFolder
    device: str
    strategy: Strategy = ALONE
    accept_changes: bool = False
    json: bool = False
    resume: bool = False
    doctor: Literal["treat"] | None = None
    log: Tracker | None = None

    @classmethod
    def new(
        cls, job: Job, recipe: Recipe, out: Path, name: str | None, *, device: str, strategy: Strategy, json: bool
    ) -> "Training":
        torch.manual_seed(recipe.seed)
        kind = task_of(job)
        task = kind.open(replace(job, data=job.data or kind.embedded), None)
        task.require(recipe)
        model, job = task.network(), task.job
        begun = strategy.first(lambda: str(_create(out, name, job).path))
        run = RunFolder(Path(begun))
        built = replace(job, config=asdict(model.config), fingerprint=task.data.fingerprint, unit=task.unit)  # pyright: ignore
        task = replace(task, job=built)
        if strategy.leads:
            task.remember(run)
        return cls(task=task, model=model, recipe=recipe, run=run, device=device, strategy=strategy, json=json)

    @classmethod
    def resumed(
        cls, folder: Path, changed: Mapping[str, Any], *, device: str, strategy: Strategy, json: bool
    ) -> "Training":
        run = RunFolder.open(folder)
        job, recipe = Job.recall(run), load_recipe(file=run.recipe, overrides=changed)
        torch.manual_seed(recipe.seed)
        task = task_of(job).open(job, run)
        rest = {"recipe": recipe, "run": run, "device": device, "strategy": strategy, "json": json}
        return cls(task=task, model=task.network(), **rest, resume=True)

    def carry_out(self) -> None:
        """Train, test, save and report; whoever interrupts it is told how to go on."""
        try:
            self._carry_out()
        except (SystemExit, KeyboardInterrupt, BadData):
            # Whether the last save succeeded or a warning said why not: what there is, a resume can go on from.
            if self.strategy.leads and self.run.recipe.exists():
                print(f"stopped; go on with: fieldguide train --resume {quote(str(self.run.path))}", file=sys.stderr)
            elif self.strategy.leads and self.run.path.exists():
                shutil.rmtree(self.run.path)  # it had not begun
            raise

    def _carry_out(self) -> None:
        try:
            done = self.fit()
        except FieldguideError:
            fresh = self.strategy.leads and not self.resume
            if fresh and not self.run.metrics.exists():  # refused before the first step: nothing to keep
                shutil.rmtree(self.run.path)
            raise
        if not self.strategy.leads:
            return
        if self.accept_changes:  # later commands compare the data with those of the run
            replace(self.task.job, fingerprint=self.task.data.fingerprint).remember(self.run)
        self.task.save(done.model, self.run)
        test = next(record for record in reversed(done.history) if record["kind"] == "test")
        if further := self.task.examine(self.run, self.device):
            test |= further
            Log(self.run.metrics).write(test)
        diagnosis = examined(records_of(self.run.path), self.run.path)
        replace_text(
            self.run.path / "doctor.json", json.dumps(diagnosis.to_json(), ensure_ascii=False, indent=2) + "\n"
        )
        build_report(self.run.path, diagnosis.to_json(), cards())
        self.conclude(done, test, headline(diagnosis))

    def fit(self) -> Run:
        model = self.model.to(self.device)
        if self.strategy.leads and not self.json:
            self.introduce(model)
        if self.doctor == "treat":
            return treated(self, model)
        return self.fit_once(model, self.recipe, [], resume=self.resume, accept_changes=self.accept_changes)

    def fit_once(
        self, model: nn.Module, recipe: Recipe, guards: Sequence[Callback], *, resume: bool, accept_changes: bool
    ) -> Run:
        objective = self.task.objective(recipe)
        leads = self.strategy.leads
        with progress(self.json, self.task.unit) as shown, tracked(self.log if leads else None, self.run) as logs:
            told = [*[shown] * leads, *logs, *guards]
            return fit(model, self.task.data, objective, recipe, run=self.run, resume=resume, callbacks=told,
                       accept_changes=accept_changes, strategy=self.strategy)  # fmt: skip

    def introduce(self, model: nn.Module) -> None:
        job = self.task.job
        weights = {"weights": job.weights} if job.weights else {}
        say_facts(
            model=f"{job.model}, {sum(p.numel() for p in model.parameters()):,} parameters, on {self.device}",
            **weights,
            **self.task.facts(),
            run=self.run.path,
        )

    def conclude(self, done: Run, test: Record, doctor: str) -> None:
        run = self.run
        seconds = sum(r["seconds"] for r in done.history if r["kind"] == "epoch")
        weights = "best" if done.recipe.stopping.patience else "averaged" if done.recipe.ema else "last"
        if self.json:
            figures = {key: value for key, value in test.items() if key.startswith("test_")}
            where = {"run": str(run.path), "report": str(run.report)}
            say_line({"kind": "result", **where, "weights": weights, **figures, "seconds": seconds})
            return
        figures = [f"{title} {value}" for title, value in shown(test, "test_").items()]
        say_facts(
            test=f"{', '.join(figures[:HEADLINES])}, with the {weights} weights",
            time=f"{duration(seconds)} of training",
            doctor=doctor,
            report=run.report,
            next=self.task.next_command(quote(str(run.path))),
        )


def _create(out: Path, name: str | None, job: Job) -> RunFolder:
    return RunFolder.create_at(out / name) if name else RunFolder.create(out, job.model, job.data)
