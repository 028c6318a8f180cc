"""The cells of a CSV file, column by column: which hold numbers, which words, and how either becomes numbers."""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from fieldguide.data.documents import read_document
from fieldguide.errors import FieldguideError, did_you_mean, unknown
from fieldguide.shapes import Float, Tensor

MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}
"""Cells without a value, in any case."""
MOST_LEVELS = 30
"""Different words of a column; each becomes an input of its own."""
MOSTLY = 0.9
"""Share of numbers in a column above which the other cells are taken for mistakes."""
_DELIMITERS = ",;\t|"
_COMMA = re.compile(r"[-+]?[\d.]*\d,\d+(?:[eE][-+]?\d+)?")


@dataclass(frozen=True, eq=False)
class Table:
    """The cells of a file, and where they stand in it."""

    file: Path
    header: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    lines: Sequence[int]
    """The line of each row in the file, for messages."""

    def cells(self, name: str) -> list[str]:
        """Raises ``FieldguideError`` for a column that is not there."""
        if name not in self.header:
            raise unknown("column", name, self.header, f"{self.file} has {', '.join(self.header[:12])}")
        place = self.header.index(name)
        return [row[place] for row in self.rows]

    def where(self, row: int, name: str) -> str:
        return f"{self.file} line {self.lines[row]}, column {name!r}"

    def subset(self, keep: Sequence[int]) -> "Table":
        return Table(self.file, self.header, [self.rows[i] for i in keep], [self.lines[i] for i in keep])


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of inputs."""

    name: str
    levels: tuple[str, ...] | None = None
    """Its words, one 0/1 input for each; None for a column of numbers, which is one input."""
    fill: float | str | None = None
    """What stands for a missing value; None refuses it."""

    @property
    def width(self) -> int:
        return 1 if self.levels is None else len(self.levels)

    def encode(self, table: Table) -> Float[Tensor, "n w"]:
        """The column as float32. Raises ``FieldguideError`` that names line and column of a cell that does not fit."""
        cells = [str(self.fill) if is_missing(c) and self.fill is not None else c for c in table.cells(self.name)]
        for row, cell in enumerate(cells):
            if is_missing(cell):
                raise FieldguideError(f"{table.where(row, self.name)} has no value; fill it in or leave the row out")
        if self.levels is None:
            return numbers(table, self.name, cells)[:, None]
        places = {level: place for place, level in enumerate(self.levels)}
        for row, cell in enumerate(cells):
            if cell not in places:
                known = f"{did_you_mean(cell, self.levels)} (known: {', '.join(self.levels)})"
                raise FieldguideError(f"{table.where(row, self.name)} is {cell!r}, which training did not see{known}")
        return torch.eye(len(places))[torch.tensor([places[cell] for cell in cells], dtype=torch.long)]

    def filled(self, table: Table) -> "Column":
        """With the mean of these rows, or their most frequent word, for what is missing."""
        present = [cell for cell in table.cells(self.name) if not is_missing(cell)]
        if not present:
            raise FieldguideError(f"{table.file}: column {self.name!r} has no value in the training part; remove it")
        if self.levels is not None:
            return replace(self, fill=Counter(present).most_common(1)[0][0])
        return replace(self, fill=float(np.mean([float(cell) for cell in present])))


def read_table(file: Path) -> Table:
    """A CSV file in UTF-8 with a header, its delimiter (comma, semicolon, tab or bar) found by itself.

    Raises:
        FieldguideError: the file cannot be read, or has no header, a name twice, or a line of another length.
    """
    text = read_document(file, in_lines=True).text
    reader = csv.reader(())
    try:
        delimiter = max(_DELIMITERS, key=lambda d: _columns(text, d))
        reader = csv.reader(text.splitlines(keepends=True), delimiter=delimiter, skipinitialspace=True)
        found = [(reader.line_num, [c.strip() for c in cells]) for cells in reader if any(c.strip() for c in cells)]
    except csv.Error as error:
        raise FieldguideError(f"{file} line {reader.line_num} is no CSV ({error})") from error
    if len(found) < 2:
        raise FieldguideError(f"{file} has no rows; the first line names the columns, and each line after it is a row")
    header = tuple(found[0][1])
    if len(header) < 2:
        raise FieldguideError(f"{file} has the single column {', '.join(header)!r}; a table needs inputs and a target")
    if all(number(name) is not None for name in header):
        raise FieldguideError(f"{file} line 1 holds numbers; name the columns there, such as {_example(header)}")
    if "" in header:
        raise FieldguideError(f"{file}: column {header.index('') + 1} has no name; name it, or remove it")
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise FieldguideError(f"{file} has two columns {twice[0]!r}; rename one")
    for line, cells in found[1:]:
        if len(cells) != len(header):
            raise FieldguideError(f"{file} line {line} has {len(cells)} cells and the header {len(header)} columns")
    lines, rows = zip(*found[1:], strict=True)
    return Table(file, header, rows, lines)


def learn_column(table: Table, name: str) -> Column:
    """Numbers or words, from all cells that have a value; a column of words has any number of levels here.

    Raises ``FieldguideError`` for no value at all, decimal commas, and a word among numbers.
    """
    cells = table.cells(name)
    present = [row for row, cell in enumerate(cells) if not is_missing(cell)]
    if not present:
        raise FieldguideError(f"{table.file}: column {name!r} has no value at all; remove it")
    wrong = [row for row in present if number(cells[row]) is None]
    if not wrong:
        return Column(name=name)
    first = table.where(wrong[0], name)
    if all(_COMMA.fullmatch(cells[row]) for row in wrong):
        raise FieldguideError(f"{first} is {cells[wrong[0]]!r}; write numbers with a decimal point and no other commas")
    if 1 - len(wrong) / len(present) >= MOSTLY:
        raise FieldguideError(
            f"{first} is {cells[wrong[0]]!r}, and most of the column are numbers; mend or empty the cell"
        )
    return Column(name=name, levels=tuple(sorted({cells[row] for row in present})))


def numbers(table: Table, name: str, cells: Sequence[str]) -> Float[Tensor, " n"]:
    """Cells as float32. Raises ``FieldguideError`` for one that is no number, infinite, or too large for float32."""
    values = np.array([np.nan if (value := number(cell)) is None else value for cell in cells], dtype=np.float64)
    wrong = ~(np.abs(values) <= np.finfo(np.float32).max)
    if wrong.any():
        row = int(wrong.argmax())
        kind = "not a number" if number(cells[row]) is None else "not finite, or too large"
        raise FieldguideError(f"{table.where(row, name)} is {cells[row]!r}, {kind}; mend it")
    if 0 < values.std() < 1e-5 * abs(values.mean()):
        raise FieldguideError(
            f"{table.file}: values of column {name!r} differ only after the fifth digit, where float32 rounds; "
            f"subtract a number near {values.mean():.6g} from all of them"
        )
    return torch.from_numpy(values).float()


def number(cell: str) -> float | None:
    """The number that a cell spells, or None; Python's ``1_000`` is no number here."""
    try:
        return None if "_" in cell else float(cell)
    except ValueError:
        return None


def is_missing(cell: str) -> bool:
    return cell.lower() in MISSING


def _columns(text: str, delimiter: str) -> tuple[int, bool]:
    """How many columns a delimiter gives the header, and whether the lines after it have as many."""
    lines = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    head = [len(cells) for cells, _ in zip(lines, range(20), strict=False) if any(cells)]
    return (head[0], len(set(head)) == 1) if head else (0, False)


def _example(header: Sequence[str]) -> str:
    return ",".join([*(f"x{i + 1}" for i in range(len(header) - 1)), "y"][:4]) + (",…" if len(header) > 4 else "")
