"""``fit``: one call that trains any module on any batches and, given a run folder, leaves everything about it there."""

import warnings
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fieldguide.blocks.recomputing import recomputing
from fieldguide.errors import FieldguideError
from fieldguide.objectives.phase import Objective
from fieldguide.trace import Record
from fieldguide.train.callbacks import (
    BestWeights,
    Callback,
    HeadFirst,
    MetricsLog,
    Saving,
    Trace,
    TrainingWarning,
)
from fieldguide.train.distributed import ALONE, Strategy
from fieldguide.train.failures import BadData, Diverged, Stopped, out_of_memory_explained
from fieldguide.train.feeds import DataSet, Feed, as_feed, placed
from fieldguide.train.gradients import Centralized, GradientNoise
from fieldguide.train.loop import Loop
from fieldguide.train.precision import Precision
from fieldguide.train.randomness import deterministic, seed_everything
from fieldguide.train.recipe import Recipe, to_toml
from fieldguide.train.resuming import Origin, Resumption, resumption
from fieldguide.train.run import RunFolder, replace_text
from fieldguide.train.signals import Stop
from fieldguide.train.threads import faster_threads
from fieldguide.train.tuning import surroundings, tuned


@dataclass(frozen=True)
class Run:
    """A finished training."""

    model: nn.Module
    """The trained module itself: its last weights (averaged with EMA), or the best epoch's with early stopping."""
    recipe: Recipe
    """As it was carried out: every ``"auto"`` is a number."""
    history: list[Record]
    """One record per epoch and, where there is a test part, one for it; see ``fieldguide.trace``."""
    best: float | None
    """Best value of the monitored metric."""
    best_epoch: int | None
    folder: Path | None


def fit(
    model: nn.Module,
    data: Any,
    objective: Objective,
    recipe: Recipe | None = None,
    *,
    run: RunFolder | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    accept_changes: bool = False,
    strategy: Strategy = ALONE,
) -> Run:
    """Trains ``model`` in place.

    ``data`` is a data set that knows its batches, as all of ``fieldguide.data`` do, or ``(train, val)`` – ``val`` may
    be None – where each is a tuple of tensors ``(inputs, targets)``, a map-style data set or a feed. With ``run``, its
    folder receives recipe.toml, metrics.jsonl, trace.jsonl and checkpoints; ``resume`` goes on from the newest good
    one, bit for bit. The model stays on its device, and the random generators are seeded from the recipe. Where the
    recipe, the data, the source of the network, torch, Python, the processor or fieldguide is another than when the run
    began, it goes on only if ``accept_changes`` says so, and keeps in its folder what changed. With a ``strategy``
    (``fieldguide.train.distributed``) all processes call ``fit`` alike, and the leading one writes.

    Raises:
        FieldguideError: data, recipe and device do not go together; out of memory; nothing to resume.
        Diverged: the loss or a gradient became NaN or infinite, and ``on_bad_batch`` knows no way on.
        BadData: a batch cannot be read, or a worker process has died; after saving.
        Stopped: Ctrl-C or SIGTERM, after saving.
    """
    recipe, device = recipe or Recipe(), next(model.parameters()).device
    strategy.require(recipe, objective, model)
    train, val, test = feeds_of(data, recipe, device)
    if recipe.schedule.name == "plateau" and val is None:
        raise FieldguideError("schedule: plateau needs validation data, which say when the rate falls; give some")
    ours = run if strategy.leads else None  # to write in
    with ours.locked() if ours else nullcontext(), out_of_memory_explained(recipe, device):
        state = _restored(run, model, strategy) if resume else _nothing(ours)
        if recipe.tune != "off" and not state:
            recipe = tuned(recipe, model, objective, next(train.batches(0)), ours)
            train, val, test = feeds_of(data, recipe, device)
        if recipe.memory_format == "channels_last":
            model.to(memory_format=torch.channels_last)
        origin = Origin(data, model, look=recipe.workers == 0)
        resumed = resumption(run, state, recipe, origin, accept_changes) if run and state else None
        recipe = resumed.recipe if resumed else _resolved(recipe, model, objective, train)
        if ours and not state:
            replace_text(ours.recipe, to_toml(recipe))
        count, exact = surroundings(recipe), deterministic(recipe.deterministic)
        shared = strategy.spread(model)
        with count, exact, Stop() as stop, shared as own, recomputing(own, recipe.recompute), ExitStack() as files:
            seed_everything(recipe.seed)
            gradients = [GradientNoise()] * recipe.noise_scale + [Centralized()] * recipe.centralize
            logs = [MetricsLog(ours.metrics), Trace(ours.trace)] if ours else []
            for log in logs:
                files.callback(log.log.close)
            best = [BestWeights()] if recipe.stopping.patience else []
            head = [HeadFirst(own, recipe.head_epochs)] if recipe.head_epochs else []
            saving = [Saving(run, recipe.checkpoint_every, recipe.async_save)] if run else []
            listeners = [origin, *gradients, *logs, *best, *head, *callbacks, *saving]
            if checkpoints := run.checkpoints if run else None:
                checkpoints.keep = recipe.keep_last
            loop = Loop(own, train, val, objective, recipe, listeners, stop, checkpoints, strategy)
            _load(loop, resumed) if resumed else _begin(logs)
            if ours and resumed:
                resumed.keep(ours)
            state = resumed = None  # and with them the files of the checkpoint
            try:
                loop.run()
            except Stopped:
                for callback in saving:
                    callback.save_last()
                raise
            except BadData as problem:
                place = {"step": loop.progress.step + 1, "epoch": loop.progress.epoch}
                loop.callbacks.tell("on_failure", {"kind": "failure", **place, "message": str(problem)})
                for callback in saving if strategy.size == 1 else ():  # of many, the others are in the middle of a step
                    callback.save_last()
                raise
            except Diverged as problem:
                loop.callbacks.tell("on_failure", problem.record)
                raise
            finally:
                for callback in saving:
                    callback.finish()
            history = [*loop.progress.history]
            if test:
                figures = loop.recovery.evaluate(test)
                record = {"kind": "test", "step": loop.progress.step}
                history.append(record | {f"test_{name}": value for name, value in figures.items()})
                loop.callbacks.tell("on_test", history[-1])
            loop.stop.heed()  # asked in the last save, say: all is on the disk
            strategy.collect(own, model)
    return Run(model, recipe, history, loop.best.value, loop.best.epoch, run.path if run else None)


def _resolved(recipe: Recipe, model: nn.Module, objective: Objective, train: Feed) -> Recipe:
    """The recipe with a number in place of every ``"auto"``."""
    recipe = recipe.with_epochs(len(train) * recipe.batch_size)
    if recipe.threads != "auto":
        return recipe
    precision = Precision(recipe.precision, next(model.parameters()).device)
    return replace(recipe, threads=faster_threads(model, objective, next(train.batches(0)), precision))


def _begin(logs: Sequence[MetricsLog]) -> None:
    for log in logs:  # a run that died before its first checkpoint may have left lines
        log.log.rewind(0)


def _load(loop: Loop, resumed: Resumption) -> None:
    numbers = loop.optimizers.numbers()
    try:
        loop.load_state_dict(resumed.state)
        if resumed.retuned:
            loop.optimizers.retune(numbers)
    except (RuntimeError, KeyError, ValueError) as problem:
        if isinstance(problem, FieldguideError):
            raise
        reason = " ".join(str(problem).split())
        raise FieldguideError(f"resume: the checkpoint does not fit this model: {reason[:300]}") from problem


def feeds_of(data: Any, recipe: Recipe, device: torch.device) -> tuple[Feed, Feed | None, Feed | None]:
    """The training, validation and test batches of whatever ``fit`` takes as data."""
    if isinstance(data, DataSet):
        parts = data.feeds(recipe)
    elif isinstance(data, tuple | list) and len(data) == 2:
        size, workers = recipe.batch_size, recipe.workers
        train = as_feed(data[0], size, seed=recipe.seed, shuffle=True, workers=workers)
        parts = train, as_feed(data[1], size, workers=workers) if data[1] is not None else None, None
    else:
        raise FieldguideError(
            "data: expected a data set with feeds(recipe) or a pair (training data, validation data or None), not a "
            f"{type(data).__name__}"
        )
    train, val, test = (placed(feed, device, recipe.memory_format) if feed else None for feed in parts)
    return train, val, test  # pyright: ignore[reportReturnType]  (the training feed is never None)


def _nothing(run: RunFolder | None) -> None:
    if run and run.checkpoints.numbered():
        raise FieldguideError(f"{run.path} holds a training already; go on with it (resume), or use a new run folder")


def _restored(run: RunFolder | None, model: nn.Module, strategy: Strategy) -> dict[str, Any] | None:
    """The state in the newest good checkpoint; None when the run died before its first one and has to begin again."""
    if run is None:
        raise FieldguideError("resume: give the run folder to go on with")
    restored = run.checkpoints.newest(partial(_require_fit, model), strategy.meeting())
    if restored is None:
        return None
    for reason in restored.refused:
        warnings.warn(f"{reason}; going on from {restored.folder.name}", TrainingWarning, stacklevel=3)
    if strategy.leads:
        run.checkpoints.clean(restored.folder)
    return restored.stored


def _require_fit(model: nn.Module, state: dict[str, Any]) -> None:
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise FieldguideError("it holds no state of a training")
    here, there = ({name: getattr(value, "shape", None) for name, value in part.items()}
                   for part in (model.state_dict(), state["model"]))  # fmt: skip
    for name in sorted(here.keys() | there.keys()):
        if (ours := here.get(name)) != (theirs := there.get(name)):
            shapes = (list(shape) if shape is not None else "nothing" for shape in (theirs, ours))
            raise FieldguideError("it does not fit this model: {} is {} in it and {} here".format(name, *shapes))
