"""What a live page draws: a bounded number of rows, however long the training."""

from collections.abc import Mapping
from statistics import fmean

from fieldguide.report.figures import FIGURES
from fieldguide.report.records import is_number
from fieldguide.trace import Record

MOST = 6000
"""Rows are always fewer; a picture shows no more."""
FIELDS = {
    "step": ("loss", "lr", "grad_norm", "samples", "seconds"),
    "epoch": ("train_loss", *(f"val_{name}" for name in FIGURES)),
    "sample": ("update_ratio", "data_wait", "resident_bytes", "device_bytes", "reserved_bytes"),
}
_NEWEST = {"kind", "step"}

Row = Mapping[str, float | str]


class LiveRows:
    """The figures of steps, epochs and samples, in the order in which they came.

    When there are too many, every two neighbours of a kind become their mean, and from then on a row stands for twice
    as many records. ``first`` is the number of the oldest row there is: rows that were changed get new numbers.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.first = 0
        self._width = 1
        self._waiting: dict[str, list[Row]] = {kind: [] for kind in FIELDS}

    @property
    def end(self) -> int:
        """The number of the row that comes next."""
        return self.first + len(self.rows)

    def since(self, number: int) -> list[Row]:
        """The rows from this number on; all of them when it is none of theirs."""
        return self.rows[number - self.first if self.first <= number <= self.end else 0 :]

    def add(self, record: Record) -> None:
        """Takes a record that has a step; those of other kinds say nothing here."""
        if (kind := record["kind"]) not in FIELDS:
            return
        kept = {name: record[name] for name in FIELDS[kind] if is_number(record.get(name))}
        waiting = self._waiting[kind]
        waiting.append({"kind": kind, "step": record["step"], **kept})
        if len(waiting) >= (1 if kind == "epoch" else self._width):
            self.rows.append(_mean(waiting))
            waiting.clear()
        if len(self.rows) >= MOST:
            self._halve()

    def clear(self) -> None:
        """Begins anew, with numbers that no row had."""
        first = self.end + 1
        self.__init__()
        self.first = first

    def _halve(self) -> None:
        self.first, self._width = self.end + 1, 2 * self._width
        halved: list[Row] = []
        for kind in FIELDS:
            own = [row for row in self.rows if row["kind"] == kind]
            halved += [_mean(own[place : place + 2]) for place in range(0, len(own), 2)]
        self.rows = sorted(halved, key=lambda row: row["step"])


def _mean(rows: list[Row]) -> Row:
    """One row in place of several, of what all of them have."""
    last = rows[-1]
    if len(rows) == 1:
        return last
    names = [name for name in last if all(name in row for row in rows)]
    return {name: last[name] if name in _NEWEST else fmean(float(row[name]) for row in rows) for name in names}
