"""What ``look schedule`` does: finds the recipe of a family, file or run, and draws its schedule."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fieldguide import trace
from fieldguide.catalog import ARCHITECTURES, find, names
from fieldguide.cli.terminal import console, say_facts
from fieldguide.errors import unknown
from fieldguide.report.schedule import courses, draw_schedule, headline, schedule_text
from fieldguide.train.recipe import Recipe, load_recipe
from fieldguide.train.run import RunFolder

MARGIN = 12
"""Columns of the terminal that labels take."""
STEPS = 1000
"""How many optimizer steps a recipe is shown with that does not say."""


def show_schedule(source: str, changes: Mapping[str, Any], steps: int | None, out: Path | None) -> None:
    """Prints the pictures; the PNG goes to ``out``, or into the run. Raises FieldguideError for an unknown source."""
    run = RunFolder.open(source) if Path(source).is_dir() else None
    recipe = _recipe(source, run, changes)
    steps = steps or recipe.steps or (_steps(run, recipe) if run else STEPS)
    found = courses(recipe, steps)
    print(headline(recipe, steps))
    for course in found:
        if course.moves:
            print(f"\n{schedule_text(course, max(10, min(64, console().width - MARGIN)))}")
    still = {course.name: f"{course.values[0]:g} at every step" for course in found if not course.moves}
    if still:
        print()
        say_facts(**still)
    if file := out or (run and run.figures / "schedule.png"):
        print(draw_schedule(found, headline(recipe, steps), file))


def _recipe(source: str, run: RunFolder | None, changes: Mapping[str, Any]) -> Recipe:
    if run or source.endswith(".toml"):
        return load_recipe(None, run.recipe if run else source, changes)
    families = [row.family for row in ARCHITECTURES]
    row = find(source)
    if row is None and source not in families:
        known = [*families, *names()]
        raise unknown("recipe, family or run", source, known, "a .toml file, a run's folder, or a name from `models`")
    return load_recipe(row.family if row else source, None, changes)


def _steps(run: RunFolder, recipe: Recipe) -> int:
    """As many as the run has or will have; its epochs tell how many are in each."""
    done = [record["step"] for record in trace.read(run.metrics, "epoch")] if run.metrics.exists() else []
    return round(done[-1] / len(done) * int(recipe.epochs)) if done and recipe.epochs != "auto" else STEPS
