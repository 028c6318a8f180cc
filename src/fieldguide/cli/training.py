"""What the verb ``train`` does: data, network, training, test, report; a new run or the rest of an interrupted one."""

import shutil
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import nn

from fieldguide.cli.job import Job
from fieldguide.cli.pretrained import Pretrained
from fieldguide.cli.progress import progress
from fieldguide.cli.terminal import say_facts, say_line
from fieldguide.cli.trained import Trained
from fieldguide.data import ImageData
from fieldguide.errors import FieldguideError
from fieldguide.models import save_model
from fieldguide.objectives import Classification
from fieldguide.report import build_report
from fieldguide.report.story import duration
from fieldguide.train.failures import Stopped
from fieldguide.train.fitting import Run, fit
from fieldguide.train.recipe import Recipe, load_recipe
from fieldguide.train.run import RunFolder


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run and everything it needs."""

    job: Job
    data: ImageData
    model: nn.Module
    recipe: Recipe
    run: RunFolder
    device: str
    json: bool = False
    resume: bool = False

    @classmethod
    def new(cls, job: Job, recipe: Recipe, out: Path, name: str | None, *, device: str, json: bool) -> "Training":
        torch.manual_seed(recipe.seed)
        start = Pretrained.of(job) if job.weights else None
        job = start.prepare(job) if start else job
        data = job.open_data()
        if data.skipped:
            print(f"warning: left out {len(data.skipped)} unreadable files, first {data.skipped[0]}", file=sys.stderr)
        model = start.network(data) if start else job.network(data)
        run = RunFolder.create_at(out / name) if name else RunFolder.create(out, job.model, data.name)
        job = replace(job, config=asdict(model.config), fingerprint=data.fingerprint)  # pyright: ignore
        job.remember(run)
        return cls(job=job, data=data, model=model, recipe=recipe, run=run, device=device, json=json)

    @classmethod
    def resumed(cls, folder: Path, *, device: str, json: bool) -> "Training":
        run = RunFolder.open(folder)
        job, recipe = Job.recall(run), load_recipe(file=run.recipe)
        torch.manual_seed(recipe.seed)
        # A run that died before its first checkpoint begins again, with the weights that it began with.
        start = Pretrained.of(job) if job.weights and not run.checkpoints.numbered() else None
        data = job.open_data()
        model = start.network(data) if start else job.network(data)
        return cls(job=job, data=data, model=model, recipe=recipe, run=run, device=device, json=json, resume=True)

    def carry_out(self) -> None:
        """Train, test, save and report; Ctrl-C and SIGTERM save first and say how to go on."""
        try:
            done = self.fit()
        except Stopped:
            # Whether the last save succeeded or a warning said why not, a good checkpoint is there.
            print(f"stopped; go on with: fieldguide train --resume {quote(str(self.run.path))}", file=sys.stderr)
            raise
        except FieldguideError:
            if not self.resume and not self.run.metrics.exists():  # refused before the first step: nothing to keep
                shutil.rmtree(self.run.path)
            raise
        save_model(done.model, self.run.model, extra={"data": self.preparation()})
        Trained.of(self.run, self.device).predictions(self.data.test).save(self.run.path)
        build_report(self.run.path)
        self.conclude(done)

    def fit(self) -> Run:
        model = self.model.to(self.device)
        if not self.json:
            self.introduce(model)
        objective = Classification(self.recipe.label_smoothing)
        with progress(self.json) as shown:
            return fit(model, self.data, objective, self.recipe, run=self.run, resume=self.resume, callbacks=[shown])

    def preparation(self) -> dict[str, Any]:
        """How prediction must repeat the preparation of images."""
        d = self.data
        return {"classes": list(d.classes), "channels": d.channels, "image_size": list(d.size),
                "mean": list(d.mean), "std": list(d.std), "resize": "cover, then centre crop"}  # fmt: skip

    def introduce(self, model: nn.Module) -> None:
        d, (height, width) = self.data, self.data.size
        weights = {"weights": self.job.weights} if self.job.weights else {}
        say_facts(
            model=f"{self.job.model}, {sum(p.numel() for p in model.parameters()):,} parameters, on {self.device}",
            **weights,
            data=f"{d.name}: {len(d.train):,} training, {len(d.val):,} validation and {len(d.test):,} test images, "
            f"{height}×{width}×{d.channels}, {len(d.classes)} classes",
            run=self.run.path,
        )

    def conclude(self, done: Run) -> None:
        run, test = self.run, next(r for r in reversed(done.history) if r["kind"] == "test")
        seconds = sum(r["seconds"] for r in done.history if r["kind"] == "epoch")
        weights = "best" if done.recipe.stopping.patience else "averaged" if done.recipe.ema else "last"
        if self.json:
            figures = {key: test[key] for key in ("test_accuracy", "test_loss")}
            where = {"run": str(run.path), "report": str(run.report)}
            say_line({"kind": "result", **where, "weights": weights, **figures, "seconds": seconds})
            return
        say_facts(
            test=f"{test['test_accuracy']:.2%} accuracy, loss {test['test_loss']:.4f}, with the {weights} weights",
            time=f"{duration(seconds)} of training",
            report=run.report,
            next=f"fieldguide predict {quote(str(run.path))} IMAGE",
        )
