"""A run in words: the headline numbers, the captions that say what a picture shows, and what to type next."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from fieldguide.metrics import per_class
from fieldguide.report.figures import FIGURES, headline
from fieldguide.report.page import ClassScore, Tile, flat
from fieldguide.report.predictions import Predictions
from fieldguide.report.records import read_environment, read_recipe
from fieldguide.shapes import Int, Tensor
from fieldguide.trace import Record


def title(run: Path) -> str:
    """``"resnet_mini on digits"``, or the folder's name when the run does not say what it was asked to do."""
    job = read_environment(run).get("job", {})
    return f"{job['model']} on {Path(job['data']).name}" if {"model", "data"} <= job.keys() else run.resolve().name


def subtitle(run: Path, records: Sequence[Record]) -> str:
    environment, last = read_environment(run), records[-1]
    parts = [str(run), f"fieldguide {environment['fieldguide']}" if "fieldguide" in environment else ""]
    parts.append("" if last["kind"] == "test" else f"not finished: {last['step']:,} steps so far")
    parts += [said for r in records if r.get("treated") is True and isinstance(said := r.get("message"), str)]
    return " · ".join(filter(None, parts))


def unit(run: Path) -> str:
    """What the samples of a step are: images, tokens, …"""
    return read_environment(run).get("job", {}).get("unit", "images")


def tiles(records: Sequence[Record], predictions: Predictions | None, unit: str = "images") -> list[Tile]:
    """The headline numbers of what there is."""
    epochs = _of_kind(records, "epoch")
    steps = _of_kind(records, "step")
    found = []
    for test in _of_kind(records, "test")[-1:]:
        count = f"{len(predictions.labels):,} {unit}" if predictions else ""
        for name, figure in FIGURES.items():
            if f"test_{name}" in test:
                note = figure.note or (count if name == headline(test, "test_") else "")
                found.append(Tile(f"test {figure.title}", figure.format.format(test[f"test_{name}"]), note))
    if best := _best(epochs):
        name, record = best
        value = FIGURES[name].format.format(record[f"val_{name}"])
        found.append(Tile("best validation", value, f"{FIGURES[name].title}, epoch {record['epoch'] + 1}"))
    seconds = sum(r["seconds"] for r in steps)
    length = f"{len(epochs)} epochs, {steps[-1]['step']:,} steps"
    found.append(Tile("training", duration(seconds), length))
    found.append(Tile("speed", f"{sum(r['samples'] for r in steps) / max(seconds, 1e-9):,.0f}", f"{unit} a second"))
    return found


def of_curves(run: Path, records: Sequence[Record]) -> str:
    losses = [r["loss"] for r in _of_kind(records, "step")]
    text = f"Training loss of every step, from {losses[0]:.3g} to {losses[-1]:.3g}, with its running mean"
    if best := _best(_of_kind(records, "epoch")):
        name, record = best
        figure = FIGURES[name]
        text += f"; validation {figure.title}, best {figure.format.format(record[f'val_{name}'])}"
        text += f" in epoch {record['epoch'] + 1}"
    recipe = dict(flat(read_recipe(run)))
    softened = {recipe.get(name, "0") for name in ("label_smoothing", "augment.mixup")} - {"0", "0.0"}
    note = " Training targets are softened, so its loss cannot reach 0." if softened else ""
    return f"{text}; the learning rate under them.{note}"


def of_confusion(scores: Sequence[ClassScore], unit: str = "images") -> str:
    rule = f"One row per true class, one column per predicted class: counts of test {unit}, shaded by share of the row."
    hardest = min((s for s in scores if s.support), key=lambda s: s.recall)
    found = f"All {unit} are right." if hardest.recall == 1 else f"Hardest: {hardest.name}, {hardest.recall:.1%} found."
    return f"{rule} {found}"


def of_mistakes(predictions: Predictions) -> str:
    wrong, shown = int((predictions.predicted != predictions.labels).sum()), len(predictions.worst)
    count = "The only" if wrong == 1 else f"All {wrong}" if shown == wrong else f"{shown} of {wrong:,}"
    return (
        f"{count} wrong test image{'s' * (wrong > 1)}, the least likely truth first: above each its class, below it "
        "what it was taken for and how sure the network was of that."
    )


def class_scores(matrix: Int[Tensor, "k k"], classes: Sequence[str]) -> list[ClassScore]:
    """A row per class of a confusion matrix."""
    columns = per_class(matrix)
    rows = zip(*(columns[key].tolist() for key in ("precision", "recall", "f1", "support")), strict=True)
    return [ClassScore(name, *row) for name, row in zip(classes, rows, strict=True)]


def next_commands(run: Path, *, finished: bool) -> list[str]:
    folder = quote(str(run))
    if not finished:
        return [f"fieldguide train --resume {folder}"]
    return read_environment(run).get("job", {}).get("next") or [
        f"fieldguide predict {folder} IMAGE",
        f"fieldguide eval {folder} --data FOLDER",
    ]


def duration(seconds: float) -> str:
    """``"8.4 s"``, ``"3 min 20 s"`` or ``"2 h 5 min"``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _of_kind(records: Sequence[Record], kind: str) -> list[Record]:
    return [r for r in records if r["kind"] == kind]


def _best(epochs: Sequence[Record]) -> tuple[str, Record] | None:
    """The figure that the run is judged by, and the epoch that was best in it."""
    name = headline(epochs[-1]) if epochs else None
    if name is None:
        return None
    sign = 1 if FIGURES[name].better == "max" else -1
    return name, max(epochs, key=lambda r: sign * r[f"val_{name}"])
