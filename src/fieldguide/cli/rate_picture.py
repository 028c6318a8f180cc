"""What ``look rate`` does: a learning-rate range test of a fresh network on its data, as a picture."""

from dataclasses import replace
from pathlib import Path

import torch

from fieldguide.cli.job import Job
from fieldguide.cli.tasks import task_of
from fieldguide.cli.terminal import say_facts
from fieldguide.report.rate_range import draw_range
from fieldguide.train.range_test import lr_range_test
from fieldguide.train.recipe import Recipe


def show_rates(job: Job, recipe: Recipe, steps: int, out: Path | None) -> None:
    """Prints the suggestions, and draws the curve to ``out`` where it is given."""
    torch.manual_seed(recipe.seed)
    kind = task_of(job)
    task = kind.open(replace(job, data=job.data or kind.embedded), None)
    found = lr_range_test(task.network(), task.data, task.objective(recipe), recipe, steps=steps)
    say_facts(
        tried=f"{len(found.rates)} steps of {recipe.optimizer.name}, {found.rates[0]:.2g} to {found.rates[-1]:.2g}",
        steepest=f"{found.steepest:.2g}, where the loss falls fastest: --optimizer.lr {found.steepest:.2g}",
        tenth=f"{found.tenth:.2g}, a tenth of the rate at the lowest loss, where training is unsteady",
        now=f"{recipe.optimizer.lr:.2g} in the recipe",
    )
    if out:
        print(draw_range(found, out))
