"""The training loop, as a picture::

    epoch   ── window ── window ── … ── evaluate ── best? ── on_epoch
    window  ── phase ── phase ── … ── average ── on_step            (one window is one optimizer step)
    phase   ── forward and backward of each micro-batch by its share ── unscale ── clip ── rate ── finite? ── optimizer

It knows any ``nn.Module``, any objective and any feed, and nothing of what they are.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Any

from torch import nn

from fieldguide.objectives.phase import Batch, Objective, Phase
from fieldguide.objectives.sharpness import sharpness_aware
from fieldguide.optim import Optimizers, build_average, build_clip, build_optimizer, build_plan
from fieldguide.trace import Record
from fieldguide.train.callbacks import Callback, Callbacks
from fieldguide.train.evaluation import evaluate, pass_over
from fieldguide.train.failures import Stopped, diverged
from fieldguide.train.feeds import Feed
from fieldguide.train.precision import Precision
from fieldguide.train.progress import Progress
from fieldguide.train.randomness import random_state, set_random_state
from fieldguide.train.recipe import Recipe
from fieldguide.train.signals import Stop
from fieldguide.train.stopping import Best

Share = tuple[float, Phase]  # a micro-batch's part in the mean of its window, and its loss


class Loop:
    """One training. ``state_dict`` holds all that changes, so a resumed run is bit-identical to an unbroken one."""

    def __init__(
        self,
        model: nn.Module,
        train: Feed,
        val: Feed | None,
        objective: Objective,
        recipe: Recipe,
        callbacks: Sequence[Callback] = (),
        stop: Stop | None = None,
    ):
        self.model, self.train, self.val = model, train, val
        self.objective = objective = sharpness_aware(objective, recipe.sharpness)
        self.recipe, self.callbacks, self.stop = recipe, Callbacks(callbacks), stop or Stop()
        self.epochs, self.steps = recipe.length(len(train))
        parts = objective.parts(model)
        self.parameters = {n: [w for w in p.parameters() if w.requires_grad] for n, p in parts.items()}
        self.clip = {n: build_clip(recipe.clip_by, recipe.clip, p) for n, p in parts.items()}
        self.optimizers = Optimizers({n: build_optimizer(p, **asdict(recipe.optimizer)) for n, p in parts.items()})
        self.plan = build_plan(recipe.schedule, self.steps)
        self.precision = Precision(recipe.precision, next(model.parameters()).device)
        averages = {"ema": recipe.ema, "swa": recipe.swa, "lookahead": recipe.lookahead}
        look = partial(pass_over, model, train, objective, self.precision)
        self.average = build_average(model, self.steps, self.optimizers.values(), look, **averages)
        metric, mode = objective.monitor if val else ("loss", "min")
        self.best = Best(f"{'val' if val else 'train'}_{metric}", mode, **asdict(recipe.stopping))
        self.progress = Progress()

    def run(self) -> None:
        """Trains to the end; raises ``Stopped`` between two steps or two evaluated batches when asked to."""
        if not self.model.training:
            self.model.train()
        self.model.zero_grad()  # nothing that was there before leaks into the first step
        self.callbacks.tell("on_start", self)
        while self.progress.epoch < self.epochs and not self.best.over:
            self.train_epoch()
            self.finish_epoch()
        self.average.install()
        self.callbacks.tell("on_end")

    def train_epoch(self) -> None:
        batches = self.train.batches(self.progress.epoch, self.progress.position)
        self.progress.start_clock()
        while self.progress.step < self.steps and (window := self.fetch(batches)):
            self.callbacks.tell("on_step", self.take_step(window))
            if self.stop.requested:
                raise Stopped(self.stop.exit_code)

    def fetch(self, batches: Iterator[Batch]) -> list[Batch]:
        """The micro-batches of the next step; the last window of an epoch may be shorter, and none is left out."""
        started = perf_counter()
        window = list(islice(batches, self.recipe.accumulation))
        self.progress.waited += perf_counter() - started
        return window

    def take_step(self, window: Sequence[Batch]) -> Record:
        weights = [self.objective.weight(batch) for batch in window]
        step = self.progress.step + 1
        loss, norm, rate, figures = 0.0, 0.0, 0.0, {}
        for part, phases in self.phases(window, [weight / sum(weights) for weight in weights]):
            optimizer = self.optimizers[part]
            self.precision.unscale(optimizer)
            norm = math.hypot(norm, self.clip[part](self.parameters[part]).item())
            for share, phase in phases:
                loss += share * phase.loss.item()
                figures |= {name: figures.get(name, 0.0) + share * value.item() for name, value in phase.logs.items()}
            if not (math.isfinite(loss + norm) or self.precision.may_overflow):
                raise diverged(self.model, step, self.progress.epoch, loss, norm)
            rate = self.plan.set(optimizer, self.progress.step)
            self.callbacks.tell("before_update", part)
            self.precision.step(optimizer)
            optimizer.zero_grad()
        self.average.update()
        record = {"kind": "step", "step": step, "epoch": self.progress.epoch, "loss": loss, "lr": rate}
        seconds = self.progress.step_done(len(window), sum(weights), loss)
        return record | {"grad_norm": norm, "samples": sum(weights), "seconds": seconds} | figures

    def phases(self, window: Sequence[Batch], shares: Sequence[float]) -> Iterator[tuple[str, list[Share]]]:
        """Each phase with the gradient of the window's mean loss in place; the micro-batches advance in lockstep."""
        runs = [self.objective.step(self.model, batch) for batch in window]
        while True:
            phases: list[Share] = []
            for run, share in zip(runs, shares, strict=True):
                with self.precision.autocast():
                    phase = next(run, None)
                if phase is None:
                    return
                only = self.parameters[phase.parameters] if len(self.parameters) > 1 else None
                self.precision.backward(phase.loss, share, only)
                self.callbacks.tell("on_backward", phase.parameters, share)
                phases.append((share, phase))
            yield phases[0][1].parameters, phases

    def finish_epoch(self) -> None:
        figures = {}
        if self.val:
            with self.average.applied():
                figures = evaluate(self.model, self.val, self.objective.metrics(), self.precision, self.stop)
        record = self.progress.epoch_done({f"val_{name}": value for name, value in figures.items()})
        self.plan.epoch_done(self.best.update(record[self.best.metric], record["epoch"]))
        self.callbacks.tell("on_epoch", record)

    def state_dict(self) -> dict[str, Any]:
        """A tree of tensors and plain values, references to the live ones: save or copy it before the next step."""
        parts = {name: getattr(self, name).state_dict() for name in _STATEFUL}
        return {**parts, "random": random_state(), "recipe": asdict(self.recipe)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in _STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        set_random_state(state["random"])


_STATEFUL = ("model", "optimizers", "plan", "average", "precision", "best", "progress", "callbacks")
