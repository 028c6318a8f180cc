"""What a run's own data give to its network, for verbs that try it out."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fieldguide.cli.job import Job
from fieldguide.cli.tasks import task_of
from fieldguide.errors import FieldguideError
from fieldguide.objectives import Objective
from fieldguide.objectives.phase import Batch
from fieldguide.train.recipe import load_recipe
from fieldguide.train.run import RunFolder


def own_samples(run: Path, model: nn.Module, size: int) -> tuple[Tensor, ...] | None:
    """The arguments of the model for ``size`` validation samples; None where the data are no longer there."""
    folder = RunFolder.open(run)
    try:
        job, recipe = Job.recall(folder), load_recipe(file=folder.recipe)
        task = task_of(job).open(job, folder)
        _, val, _ = task.data.feeds(replace(recipe, batch_size=min(size, recipe.batch_size)))
    except FieldguideError:
        return None
    batch = next(val.batches(0), None) if val else None
    given = arguments_of_first_call(model, task.objective(recipe), batch) if batch is not None else ()
    device = next(model.parameters()).device
    if not given or not all(isinstance(x, Tensor) and len(x) == len(given[0]) for x in given):
        return None
    rows = torch.arange(size) % len(given[0])
    return tuple(x[rows].to(device) for x in given)


class _Enough(Exception):
    """Ends a forward pass whose arguments are known."""


def arguments_of_first_call(model: nn.Module, objective: Objective, batch: Batch) -> tuple[Any, ...]:
    """By position, without the Nones at the end."""
    seen: list[Any] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        seen[:] = bound.args
        raise _Enough

    handle = model.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        next(iter(objective.step(model, batch)), None)
    except _Enough:
        pass
    finally:
        handle.remove()
    while seen and seen[-1] is None:
        seen.pop()
    return tuple(seen)
