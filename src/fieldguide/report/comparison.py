"""Several runs beside each other: how their recipes differ, what came of it, and their curves in one picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

from fieldguide.errors import FieldguideError
from fieldguide.report import story
from fieldguide.report.curves import LONGEST_LINE, log_scale_where_it_helps, smooth
from fieldguide.report.figures import FIGURES, headline
from fieldguide.report.page import Picture, flat, write_template
from fieldguide.report.records import read_environment, read_recipe, read_records
from fieldguide.report.style import SERIES, figure
from fieldguide.trace import Record

ABSENT = "–"


@dataclass(frozen=True)
class Told:
    """What one run has left: its name in the comparison, its settings and its log."""

    name: str
    recipe: dict[str, str]
    environment: dict[str, str]
    records: list[Record]

    def of_kind(self, kind: str) -> list[Record]:
        return [record for record in self.records if record["kind"] == kind]


@dataclass(frozen=True)
class Comparison:
    """Tables with a row for each setting or figure and a column for each run."""

    runs: list[Told]
    recipes: dict[str, list[str]]
    """Settings that differ; ``–`` where a run lacks one."""
    environments: dict[str, list[str]]
    """What else differs: model, data, versions, machine."""
    results: dict[str, list[str]]
    measured: dict[str, list[float | None]]
    """The same as numbers."""


def compare(folders: Sequence[Path]) -> Comparison:
    """Sets runs beside each other, in the order given.

    Raises:
        FieldguideError: fewer than two, one twice, or one without a step.
        DamagedFile: a log, recipe or environment cannot be read.
    """
    if len(folders) < 2 or len({folder.resolve() for folder in folders}) < len(folders):
        raise FieldguideError("compare needs two runs or more, each once: fieldguide compare runs/a-1 runs/a-2")
    runs = [_told(folder, _short(folder, folders)) for folder in folders]
    figures = [dict(_figures(run)) for run in runs]
    return Comparison(
        runs=runs,
        recipes=_differences([run.recipe for run in runs]),
        environments=_differences([run.environment for run in runs]),
        results={title: [own[title][0] if title in own else ABSENT for own in figures] for title in _all(figures)},
        measured={title: [own[title][1] if title in own else None for own in figures] for title in _all(figures)},
    )


def write_comparison(found: Comparison, file: Path) -> Path:
    """One page that loads nothing from anywhere, with its picture inside."""
    drawing = draw_comparison(found.runs, file.with_suffix(".png"))
    try:
        picture = Picture("Training", drawing, _caption(found.runs))
        tables = [("Recipes", found.recipes), ("Results", found.results), ("Also different", found.environments)]
        values = {
            "title": f"{len(found.runs)} runs compared",
            "subtitle": " · ".join(run.name for run in found.runs),
            "columns": [run.name for run in found.runs],
            "tables": [(heading, rows) for heading, rows in tables if rows or heading == "Recipes"],
            "picture": picture,
        }
        return write_template(file, "comparison.html.j2", values)
    finally:
        drawing.unlink()


def draw_comparison(runs: Sequence[Told], file: Path) -> Path:
    """Training loss above; under it the validation figure that the runs are judged by. One colour for each run."""
    judged = [_judged(run) for run in runs]
    name = next((name for name in judged if name), None)
    heights = [3.0, 2.4] if name else [3.0]
    with figure(file, 7.2, 1.15 * sum(heights)) as drawing:
        loss, *below = drawing.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        for number, run in enumerate(runs):
            colour, steps = SERIES[number % len(SERIES)], run.of_kind("step")
            stride = max(1, len(steps) // LONGEST_LINE)
            values = smooth([record["loss"] for record in steps])
            loss.plot([r["step"] for r in steps][::stride], values[::stride], color=colour, label=run.name)
            for axis in below:
                points = [(r["step"], r.get(f"val_{name}", nan)) for r in run.of_kind("epoch")]
                shown = [(step, value) for step, value in points if isfinite(value)]
                axis.plot(*zip(*shown, strict=True) if shown else ((), ()), color=colour, marker="o", markersize=3)
        loss.set_title("training loss, smoothed")
        log_scale_where_it_helps(loss, [record["loss"] for run in runs for record in run.of_kind("step")])
        loss.legend(loc="upper right", labelcolor="linecolor", handlelength=1.2)
        for axis in below:
            axis.set_title(f"validation {FIGURES[str(name)].title}")
        (below or [loss])[-1].set_xlabel("step")
    return file


def _told(folder: Path, name: str) -> Told:
    settings, environment = (dict(flat(tree)) for tree in (read_recipe(folder), read_environment(folder)))
    return Told(name, settings, environment, read_records(folder))


def _short(folder: Path, folders: Sequence[Path]) -> str:
    """The folder's own name, with those above it where that of another run is the same."""
    parts, others = folder.resolve().parts, [other.resolve().parts for other in folders]
    depth = next(n for n in range(1, len(parts) + 1) if sum(other[-n:] == parts[-n:] for other in others) == 1)
    return str(Path(*parts[-depth:]))


def _figures(run: Told) -> Iterator[tuple[str, tuple[str, float]]]:
    """Title of each figure, how it is written, and its value."""
    steps, epochs = run.of_kind("step"), run.of_kind("epoch")
    for test in run.of_kind("test")[-1:]:
        for name, known in FIGURES.items():
            if f"test_{name}" in test:
                yield f"test {known.title}", (known.format.format(test[f"test_{name}"]), test[f"test_{name}"])
    if name := _judged(run):
        values = [record[f"val_{name}"] for record in epochs if isfinite(record.get(f"val_{name}", nan))]
        if values:
            best = (max if FIGURES[name].better == "max" else min)(values)
            yield f"best validation {FIGURES[name].title}", (FIGURES[name].format.format(best), best)
    loss, seconds = smooth([record["loss"] for record in steps])[-1], sum(record["seconds"] for record in steps)
    speed = sum(record["samples"] for record in steps) / max(seconds, 1e-9)
    yield "last training loss", (f"{loss:.4g}", loss)
    yield "steps", (f"{steps[-1]['step']:,}", steps[-1]["step"])
    yield "time", (story.duration(seconds), seconds)
    yield "samples a second", (f"{speed:,.0f}", speed)


def _all(tables: Sequence[Mapping[str, Any]]) -> dict[str, None]:
    """The keys of all, each once, in the order in which they come."""
    return dict.fromkeys(key for own in tables for key in own)


def _differences(settings: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    rows = {key: [own.get(key, ABSENT) for own in settings] for key in _all(settings)}
    return {key: row for key, row in rows.items() if len(set(row)) > 1}


def _judged(run: Told) -> str | None:
    epochs = run.of_kind("epoch")
    return headline(epochs[-1]) if epochs else None


def _caption(runs: Sequence[Told]) -> str:
    ends = ", ".join(f"{run.name} at {run.of_kind('step')[-1]['loss']:.3g}" for run in runs)
    return f"The runs' training losses, each smoothed over 2 % of its steps: they end with {ends}."
