"""The settings that make this machine's training steps fastest, as fields of a recipe: ``tune = "bf16"``."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fieldguide.objectives.phase import Batch, Objective
from fieldguide.optim import build_optimizer
from fieldguide.profile.tuning.layout import ChannelsLast
from fieldguide.profile.tuning.memory import kept_memory
from fieldguide.profile.tuning.precision import products
from fieldguide.profile.tuning.search import Groups
from fieldguide.profile.tuning.surroundings import fewer_threads, threads
from fieldguide.profile.tuning.training import NUMBERS, tune_training
from fieldguide.train.precision import Precision
from fieldguide.train.randomness import untouched
from fieldguide.train.recipe import Recipe
from fieldguide.train.run import RunFolder, replace_text

TOLERANCES = {"fp32": 1e-4, "bf16": 1e-2}
SECONDS = 20.0


@contextmanager
def surroundings(recipe: Recipe) -> Iterator[None]:
    """Inside the ``with``, threads, products and memory as a resolved recipe has them; then as before."""
    with threads(int(recipe.threads)), products(recipe.matmul_precision), kept_memory(recipe.keep_memory):
        yield


def tuned(recipe: Recipe, model: nn.Module, objective: Objective, batch: Batch, run: RunFolder | None) -> Recipe:
    """The recipe with what is fastest on a batch in place of its own settings, and ``tune`` off: done is done.

    What the recipe sets to other values than the usual ones stays as it is. Works on copies: the model and every random
    generator stay as they are. ``run`` receives the table as tuning.json.
    """
    usual, threads = Recipe(), recipe.threads == "auto"
    groups: Groups = (
        ((ChannelsLast(),),) if recipe.memory_format == usual.memory_format else (),
        NUMBERS if (recipe.precision, recipe.matmul_precision) == (usual.precision, usual.matmul_precision) else (),
        fewer_threads() if threads else (),
    )
    precision = Precision(recipe.precision, next(model.parameters()).device)

    def losses(model: nn.Module, batch: Batch) -> Iterator[Tensor]:
        phases = objective.step(model, batch)
        while True:
            with precision.autocast():
                phase = next(phases, None)
            if phase is None:
                return
            yield phase.loss

    def make_optimizer(model: nn.Module, options: Mapping[str, Any]) -> Optimizer:
        return build_optimizer(model, **asdict(replace(recipe.optimizer, lr=1e-9)))

    with untouched(), kept_memory(False):
        found = tune_training(
            *(model, batch, losses, TOLERANCES[recipe.tune]), groups=groups, make_optimizer=make_optimizer,
            seconds=SECONDS,
        )  # fmt: skip
    if run:
        replace_text(run.path / "tuning.json", json.dumps(found.to_json(), indent=2) + "\n")
    chosen = {"threads": torch.get_num_threads()} if threads else {}
    return replace(recipe, **chosen | dict(found.recipe), tune="off")
