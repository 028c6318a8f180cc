"""The training loop, as a picture::

    epoch   ── window ── window ── … ── evaluate ── best? ── on_epoch
    window  ── phase ── phase ── … ── average ── on_step            (one window is one optimizer step)
    phase   ── forward and backward of each micro-batch by its share ── unscale ── clip ── good? ── rate ── optimizer

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
from fieldguide.train.checkpoint import Checkpoints
from fieldguide.train.distributed import ALONE, Strategy
from fieldguide.train.evaluation import pass_over
from fieldguide.train.failures import Diverged, final_out_of_memory, require_finite
from fieldguide.train.feeds import Feed, readable
from fieldguide.train.precision import Precision
from fieldguide.train.progress import Progress
from fieldguide.train.randomness import random_state, set_random_state
from fieldguide.train.recipe import Recipe
from fieldguide.train.recovery import Recovery
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
        checkpoints: Checkpoints | None = None,
        strategy: Strategy = ALONE,
    ):
        self.strategy = strategy
        self.model, self.train, self.val = model, train, val
        self.objective = objective = sharpness_aware(objective, recipe.sharpness)
        self.recipe, self.callbacks, self.stop = recipe, Callbacks(callbacks), strategy.hear(stop or Stop())
        self.epochs, self.steps = recipe.length(len(train))
        parts = objective.parts(model)
        self.parameters = {n: [w for w in p.parameters() if w.requires_grad] for n, p in parts.items()}
        clips = {n: build_clip(recipe.clip_by, recipe.clip, p) for n, p in parts.items()}
        self.clip = {n: strategy.clip(clip, recipe.clip) for n, clip in clips.items()}
        self.optimizers = Optimizers({n: build_optimizer(p, **asdict(recipe.optimizer)) for n, p in parts.items()})
        self.plan = build_plan(recipe.schedule, self.steps)
        self.precision = Precision(recipe.precision, next(model.parameters()).device)
        averages = {"ema": recipe.ema, "swa": recipe.swa, "lookahead": recipe.lookahead}
        look = partial(pass_over, model, train, objective, self.precision, self.stop)
        self.average = build_average(model, self.steps, self.optimizers.values(), look, **averages)
        metric, mode = objective.monitor if val else ("loss", "min")
        self.best = Best(f"{'val' if val else 'train'}_{metric}", mode, **asdict(recipe.stopping))
        self.progress = Progress()
        self.recovery = Recovery(self, checkpoints)
        self.micro_batch = 0
        """Of the step under way, or cut for it: where it is."""

    def run(self) -> None:
        """Trains to the end; raises ``Stopped`` between two steps or two evaluated batches when asked to.

        Raises ``BadData`` at the same places for a batch that cannot be read.
        """
        if not self.model.training:
            self.model.train()
        self.model.zero_grad()  # nothing that was there before leaks into the first step
        self.callbacks.tell("on_start", self)
        while self.progress.epoch < self.epochs and not self.best.over:
            try:
                self.train_epoch()
                self.finish_epoch()
            except Diverged as problem:
                self.recovery.go_back(problem)
        self.average.install()
        self.callbacks.tell("on_end")

    def train_epoch(self) -> None:
        epoch, start = self.progress.epoch, self.progress.position
        batches = readable(self.train.batches(epoch, start), f"epoch {epoch}", start)
        self.progress.start_clock()
        self.stop.heed()
        while self.progress.step < self.steps and (window := self.fetch(batches)):
            self.callbacks.tell("on_step", self.take_step(window))
            self.stop.heed()

    def fetch(self, batches: Iterator[Batch]) -> list[Batch]:
        """The micro-batches of the next step; the last window of an epoch may be shorter, and none is left out."""
        started = perf_counter()
        window = list(islice(batches, self.recipe.accumulation))
        self.progress.waited += perf_counter() - started
        return window

    def take_step(self, window: Sequence[Batch]) -> Record:
        record = {"kind": "step", "step": self.progress.step + 1, "epoch": self.progress.epoch}
        record |= self.recovery.step(window)
        return record | {"seconds": self.progress.step_done(len(window), record["samples"], record["loss"])}

    def step(self, window: Sequence[Batch]) -> Record:
        """The optimizer step of these micro-batches, whatever they do; ``recovery`` sees to what goes wrong."""
        self.strategy.begin(self.recipe.seed, self.progress.step)
        window, shares, samples = self.strategy.split(window, self.objective.weight)
        loss, norm, rate, logs = 0.0, 0.0, 0.0, {}
        for part, phases in self.phases(window, shares):
            optimizer = self.optimizers[part]
            self.precision.unscale(optimizer)
            norm = math.hypot(norm, self.clip[part](self.parameters[part]).item())
            logs |= self.strategy.sum(means(phases))
            self.recovery.require_good(part, logs["loss"], norm)
            loss += logs.pop("loss")
            rate = self.plan.set(optimizer, self.progress.step)
            self.callbacks.tell("before_update", part)
            with final_out_of_memory("the optimizer's state"):
                self.precision.step(optimizer)
            optimizer.zero_grad()
        with final_out_of_memory("the averaged weights"):
            self.average.update()
        return {"loss": loss, "lr": rate, "grad_norm": norm, "samples": samples} | logs

    def phases(self, window: Sequence[Batch], shares: Sequence[float]) -> Iterator[tuple[str, list[Share]]]:
        """Each phase with the gradient of the window's mean loss in place; the micro-batches advance in lockstep."""
        runs = [self.objective.step(self.model, batch) for batch in window]
        while True:
            phases: list[Share] = []
            for self.micro_batch, (run, share) in enumerate(zip(runs, shares, strict=True), 1):
                with self.precision.autocast():
                    phase = next(run, None)
                if phase is None:
                    return
                self.strategy.expect(last=run is runs[-1])
                only = self.parameters[phase.parameters] if len(self.parameters) > 1 else None
                self.precision.backward(phase.loss, share, only)
                self.callbacks.tell("on_backward", phase.parameters, share)
                phases.append((share, phase))
            part = phases[0][1].parameters
            self.strategy.reduce(part, self.parameters[part])
            yield part, phases

    def finish_epoch(self) -> None:
        figures = {}
        if self.val:
            with self.average.applied():
                figures = self.recovery.evaluate(self.val)
        record = self.progress.epoch_done({f"val_{name}": value for name, value in figures.items()})
        self.plan.epoch_done(self.best.update(record[self.best.metric], record["epoch"]))
        self.callbacks.tell("on_epoch", record)

    def state_dict(self) -> dict[str, Any]:
        """A tree of tensors and plain values, references to the live ones: save or copy it before the next step.

        Of what many processes share it has this one's parts.

        Raises:
            Diverged: a parameter is not finite; nothing of that kind is ever saved.
        """
        require_finite(self.model, self.progress, self.strategy)
        parts = {name: getattr(self, name).state_dict() for name in _STATEFUL}
        return self.strategy.parts({**parts, "random": random_state(), "recipe": asdict(self.recipe)})

    def load_state_dict(self, stored: Mapping[str, Any]) -> None:
        """Takes over such a state, its tensors still to be read from a checkpoint or here."""
        state = self.strategy.shards(stored)
        for name in _STATEFUL:
            getattr(self, name).load_state_dict(state[name])
        set_random_state(state["random"])


def means(phases: Sequence[Share]) -> dict[str, float]:
    """A window's loss and further scalars, its micro-batches by their shares."""
    found: dict[str, float] = {}
    for share, phase in phases:
        for name, value in {"loss": phase.loss, **phase.logs}.items():
            found[name] = found.get(name, 0.0) + share * value.item()
    return found


_STATEFUL = ("model", "optimizers", "plan", "average", "precision", "best", "progress", "callbacks", "recovery")
