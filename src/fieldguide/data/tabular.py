"""A table of numbers and words as a data set: one column is to be told from the others.

Axis letters: n rows, f inputs of the network (a number is one, a word one for each level), b batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Literal

import torch

from fieldguide.data.columns import MOST_LEVELS, Column, Table, is_missing, learn_column, number, numbers, read_table
from fieldguide.data.feed import BatchSettings, stream
from fieldguide.data.files import PART_NAMES
from fieldguide.data.splits import TEST_SHARE, VALIDATION_LIMIT, VALIDATION_SHARE, stratified
from fieldguide.errors import FieldguideError, unknown
from fieldguide.shapes import Float, Int, Tensor

OnMissing = Literal["stop", "drop", "mean"]
Kind = Literal["regress", "classify"]
Parts = Mapping[str, Tensor]
"""The rows (n,) of each part."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The inputs, as they stand in the table, and targets of one part."""

    inputs: Float[Tensor, "n f"]
    targets: Tensor
    """(n,): float32 numbers in the table's units, or int64 class numbers."""
    lines: Int[Tensor, " n"]
    """Where each row stands in its file."""

    def __len__(self) -> int:
        return len(self.targets)

    def subset(self, chosen: Int[Tensor, " m"]) -> "Rows":
        return Rows(self.inputs[chosen], self.targets[chosen], self.lines[chosen])


class RowFeed:
    """Batches ``(inputs (b, f), targets (b,))`` of a part, in an order that depends on (seed, epoch) only.

    Raises ``FieldguideError`` when a shuffled (training) batch would be larger than the part.
    """

    def __init__(self, rows: Rows, batch_size: int, *, seed: int = 0, shuffle: bool = True):
        if shuffle and batch_size > len(rows):
            raise FieldguideError(
                f"batch_size {batch_size} is larger than the training part ({len(rows)} rows); "
                f"choose at most {len(rows)}"
            )
        self.rows, self.batch_size, self.seed, self.shuffle = rows, batch_size, seed, shuffle

    def __len__(self) -> int:
        """Batches in an epoch; the last may be smaller."""
        return ceil(len(self.rows) / self.batch_size)

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Float[Tensor, "b f"], Tensor]]:
        """The batches from number ``start`` of an epoch; equal arguments give equal batches."""
        order = torch.arange(len(self.rows))
        if self.shuffle:
            order = torch.randperm(len(self.rows), generator=stream(self.seed, epoch))
        for chosen in order.split(self.batch_size)[start:]:
            yield self.rows.inputs[chosen], self.rows.targets[chosen]


@dataclass(frozen=True, eq=False)
class TableData:
    """A table in three parts, its numbers as they stand in the file.

    A table without a test part gives 20 % of its rows to it, and one without a validation part 10 % of what remains for
    training (at most 5,000 rows), of each class where there are classes; the choice is fixed by the table and
    ``split_seed``, never by a training seed.
    """

    name: str
    target: str
    columns: tuple[Column, ...]
    classes: tuple[str, ...] | None
    """None where the target is a number."""
    train: Rows
    val: Rows
    test: Rows
    mean: tuple[float, ...]
    """Of each input in the training part; 0 of words, which stay 0 and 1."""
    std: tuple[float, ...]
    """The same; 1 of words and of what is constant."""
    target_mean: float
    """Of the training part; 0 where there are classes."""
    target_std: float
    """The same; 1 where there are classes."""
    fingerprint: str
    """SHA-256 of the three parts and of what their columns mean."""
    dropped: int = 0
    """Rows left out because a value was missing."""

    @property
    def kind(self) -> Kind:
        return "classify" if self.classes else "regress"

    def feeds(self, recipe: BatchSettings) -> tuple[RowFeed, RowFeed, RowFeed]:
        """Batches of the three parts; those of the training part are shuffled."""
        val, test = (RowFeed(part, recipe.batch_size, shuffle=False) for part in (self.val, self.test))
        return RowFeed(self.train, recipe.batch_size, seed=recipe.seed), val, test


def open_table(
    file: str | Path,
    target: str,
    *,
    kind: Kind | None = None,
    on_missing: OnMissing = "stop",
    split_seed: int = 0,
) -> TableData:
    """A CSV file with a header, whose column ``target`` is to be told from all others.

    A column is numbers, or up to 30 different words. The target is a class when it is text or has just two values, and
    a number otherwise; ``kind`` decides it. A column ``split`` (train, val, test) divides the rows. Rows with a missing
    value (empty, NA, NaN, ?) stop the reading, are left out (``"drop"``), or get the training part's mean or most
    frequent word (``"mean"``; not the target).

    Raises:
        FieldguideError: the file, a column or a cell is not as it must be, with its line and name; a target that is
            absent or constant, or text where a number is wanted.
    """
    table = read_table(Path(file).expanduser())
    if target not in table.header:
        raise unknown("target", target, table.header, f"{file} has {', '.join(table.header[:12])}")
    rows = len(table.rows)
    table = _complete(table, target, on_missing)
    classes = _classes(table, target, kind)
    names = [name for name in table.header if name != target and name.lower() != "split"]
    if not names:
        raise FieldguideError(f"{file} has no column besides {target!r}; a table needs inputs")
    columns = tuple(_of_few_levels(table, learn_column(table, name)) for name in names)
    targets = _targets(table, target, classes)
    parts = _divided(_given(table, target), targets, classes, split_seed)
    if on_missing == "mean":
        columns = tuple(column.filled(table.subset(parts["train"].tolist())) for column in columns)
    whole = Rows(torch.cat([c.encode(table) for c in columns], 1), targets, torch.tensor(table.lines))
    train, val, test = (whole.subset(parts[part]) for part in ("train", "val", "test"))
    mean, std = _statistics(train.inputs, torch.tensor([c.levels is None for c in columns for _ in range(c.width)]))
    target_mean, target_std = _statistics(train.targets[:, None], torch.tensor([classes is None]))
    return TableData(
        name=table.file.stem,
        target=target,
        columns=columns,
        classes=classes,
        train=train,
        val=val,
        test=test,
        mean=mean,
        std=std,
        target_mean=target_mean[0],
        target_std=target_std[0],
        fingerprint=_fingerprint((target, columns, classes), (train, val, test)),
        dropped=rows - len(table.rows),
    )


def open_rows(
    file: str | Path, columns: Sequence[Column], target: str | None = None, classes: Sequence[str] | None = None
) -> Rows:
    """The rows of a file with the columns that a network was trained on; others are not read.

    Without ``target`` (to predict) all targets are 0. Raises ``FieldguideError`` for a missing column, and a cell or
    class that the network does not know.
    """
    table = read_table(Path(file).expanduser())
    inputs = torch.cat([column.encode(table) for column in columns], 1)
    targets = torch.zeros(len(inputs)) if target is None else _targets(table, target, classes)
    return Rows(inputs, targets, torch.tensor(table.lines))


def _complete(table: Table, target: str, on_missing: OnMissing) -> Table:
    """The rows that are to be used: those in which nothing that must be there is missing."""
    needed = [i for i, name in enumerate(table.header) if on_missing != "mean" or name == target]
    gaps = [(row, i) for row, cells in enumerate(table.rows) for i in needed if is_missing(cells[i])]
    if not gaps:
        return table
    if on_missing != "drop":
        row, column = gaps[0]
        ways = "" if on_missing == "mean" else ', or fill the gaps with on-missing "mean"'
        raise FieldguideError(
            f"{table.where(row, table.header[column])} has no value ({table.rows[row][column]!r}), nor have "
            f'{len(gaps) - 1} other cells; mend them, leave such rows out with on-missing "drop"{ways}'
        )
    missing = {row for row, _ in gaps}
    if len(missing) == len(table.rows):
        raise FieldguideError(f'{table.file}: every row lacks a value; remove a column, or use on-missing "mean"')
    return table.subset([row for row in range(len(table.rows)) if row not in missing])


def _classes(table: Table, target: str, kind: Kind | None) -> tuple[str, ...] | None:
    """The target's classes, sorted, or None when it is a number."""
    cells = table.cells(target)
    different = sorted(set(cells))
    if len(different) == 1:
        raise FieldguideError(
            f"{table.file}: the target {target!r} is {cells[0]!r} in every row; nothing can be learnt"
        )
    words = next((row for row, cell in enumerate(cells) if number(cell) is None), None)
    if kind == "regress" and words is not None:
        raise FieldguideError(f"{table.where(words, target)} is {cells[words]!r}; a target to regress must be numbers")
    if kind != "classify" and words is not None:
        learn_column(table, target)  # refuses decimal commas, and one word among numbers
    if kind == "regress" or (kind is None and words is None and len(different) > 2):
        return None
    return tuple(sorted(different, key=lambda cell: (number(cell) or 0.0, cell)))


def _targets(table: Table, target: str, classes: Sequence[str] | None) -> Tensor:
    cells = table.cells(target)
    if classes is None:
        return numbers(table, target, cells)
    for row, cell in enumerate(cells):
        if cell not in classes:
            raise unknown("class", cell, classes, table.where(row, target))
    return torch.tensor([classes.index(cell) for cell in cells])


def _of_few_levels(table: Table, column: Column) -> Column:
    if column.levels is not None and len(column.levels) > MOST_LEVELS:
        raise FieldguideError(
            f"{table.file}: column {column.name!r} has {len(column.levels)} different words, such as "
            f"{column.levels[0]!r}; at most {MOST_LEVELS} can be inputs: remove it, or put rare words together"
        )
    return column


def _given(table: Table, target: str) -> Parts:
    """The parts that a column ``split`` names; without it everything is for training."""
    name = next((name for name in table.header if name.lower() == "split" and name != target), None)
    if name is None:
        return {"train": torch.arange(len(table.rows))}
    cells = [cell.lower() for cell in table.cells(name)]
    for row, cell in enumerate(cells):
        if cell not in PART_NAMES:
            raise unknown("split", cell, PART_NAMES, f"{table.where(row, name)}; known: train, val, test")
    found = {part: [i for i, cell in enumerate(cells) if PART_NAMES[cell] == part] for part in ("train", "val", "test")}
    if not found["train"]:
        raise FieldguideError(f"{table.file}: no row has split 'train'")
    return {part: torch.tensor(rows) for part, rows in found.items() if rows}


def _divided(given: Parts, targets: Tensor, classes: Sequence[str] | None, seed: int) -> Parts:
    """The given parts, and those that were lacking taken from the training part, class by class."""
    parts = dict(given)
    labels, names = (torch.zeros_like(targets, dtype=torch.long), ("row",)) if classes is None else (targets, classes)
    for part, share in (("test", TEST_SHARE), ("val", VALIDATION_SHARE)):
        if part not in parts:
            train = parts["train"]
            limit = VALIDATION_LIMIT / len(train) if part == "val" else 1.0
            rest, held = stratified(labels[train], min(share, limit), names, seed)
            parts["train"], parts[part] = train[rest], train[held]
    if classes is None and targets[parts["train"]].unique().numel() < 2:
        raise FieldguideError("the target is the same in every row of the training part; nothing can be learnt")
    return parts


def _statistics(values: Tensor, measured: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (population) of the measured columns (n, f); 0 and 1 of the others."""
    mean, std = values.double().mean(0), values.double().std(0, correction=0)
    mean, std = torch.where(measured, mean, 0.0), torch.where(measured & (std > 0), std, 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


def _fingerprint(meaning: object, parts: Sequence[Rows]) -> str:
    digest = sha256(repr(meaning).encode())
    for rows in parts:
        digest.update(len(rows).to_bytes(8, "little"))
        digest.update(rows.inputs.numpy().tobytes() + rows.targets.numpy().tobytes())
    return digest.hexdigest()
