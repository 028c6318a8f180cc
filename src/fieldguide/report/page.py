"""One self-contained page of a run: numbers, pictures, tables, recipe, environment. It loads nothing from anywhere."""

import base64
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fieldguide.report.examples import Examples
from fieldguide.report.records import read_environment, read_recipe
from fieldguide.report.style import DOTS_PER_INCH
from fieldguide.train.run import replace_text


class ClassScore(NamedTuple):
    """One class of the table: precision, recall and F1 from 0 to 1, support in samples."""

    name: str
    precision: float
    recall: float
    f1: float
    support: float


class Picture(NamedTuple):
    """A figure of the page; ``story`` says in words what it shows."""

    title: str
    file: Path
    story: str
    is_chart: bool = True
    """Charts follow the page's dark mode; photographs do not."""

    @property
    def width(self) -> int:
        """In the page's pixels (96 an inch), from the width in the PNG's header."""
        return int.from_bytes(self.file.read_bytes()[16:20]) * 96 // DOTS_PER_INCH

    @property
    def source(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.file.read_bytes()).decode()


class Tile(NamedTuple):
    """A headline number."""

    name: str
    value: str
    note: str = ""


def write_page(
    run: Path,
    *,
    title: str,
    subtitle: str,
    tiles: Sequence[Tile],
    pictures: Sequence[Picture],
    scores: Sequence[ClassScore],
    unit: str,
    tables: Sequence[Examples],
    cards: Sequence[Any] = (),
    mistakes: Sequence[str],
    commands: Sequence[str],
) -> Path:
    """Write ``report.html`` into the run folder from these parts and the recipe and environment that lie there."""
    values = {
        "title": title,
        "subtitle": subtitle,
        "tiles": tiles,
        "pictures": pictures,
        "scores": scores,
        "unit": unit,
        "tables": tables,
        "cards": cards,
        "mistakes": mistakes,
        "commands": commands,
        "recipe": list(flat(read_recipe(run))),
        "environment": list(flat(read_environment(run))),
    }
    return write_template(run / "report.html", "report.html.j2", values)


def write_template(file: Path, template: str, values: Mapping[str, Any]) -> Path:
    """Render one of the package's templates into ``file``; what it shows is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("fieldguide.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    replace_text(file, templates.get_template(template).render(values))
    return file


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """``{"optimizer": {"lr": 1}}`` as ``("optimizer.lr", "1")``, as options are named; without empty values."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif value not in (None, [], ""):
            yield f"{prefix}{key}", _shown(value)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return shlex.join(value) if all(isinstance(item, str) for item in value) else ", ".join(map(str, value))
    return str(value)
