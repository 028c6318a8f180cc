"""Tables of text: ``.csv``, ``.tsv`` or ``.jsonl`` as records with a line number, whatever their columns' order."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from fieldguide.data.documents import read_document
from fieldguide.data.files import PART_NAMES
from fieldguide.errors import FieldguideError, did_you_mean, unknown

_Line = tuple[int, Mapping[str, str]]


class Record(NamedTuple):
    place: str
    """``"reviews.csv line 7"``"""
    part: str
    values: tuple[str, ...]
    """In the order of the names asked for; none is empty."""


def read_records(file: Path, names: tuple[str, str]) -> list[Record]:
    """Two named texts from each line, and from a ``split`` column the part: train where it says nothing.

    A first line that holds both names is a header and other columns are passed over; without one the columns are in
    this order. Objects of ``.jsonl`` hold them as keys. Quotes mean something in ``.csv`` alone.

    Raises ``FieldguideError`` with the line's number for what is missing, empty or in no part.
    """
    kind = file.suffix.lower()
    if kind not in READERS:
        raise FieldguideError(f"{file} is a {kind or 'file without suffix'}; accepted: {' '.join(READERS)}")
    records = [_record(file, line, names) for line in READERS[kind](file, names)]
    if not records:
        raise FieldguideError(f"{file} holds no lines of {','.join(names)}")
    return records


def _record(file: Path, line: _Line, names: tuple[str, str]) -> Record:
    number, values = line
    place = f"{file} line {number}"
    for name in names:
        if not values.get(name, "").strip():
            raise FieldguideError(f"{place} has no {name}; give one, or remove the line")
    part = values.get("split", "").strip().lower() or "train"
    if part not in PART_NAMES:
        raise unknown("split", values["split"], ("train", "val", "test"), f"{place}; known: train, val, test")
    return Record(f"{file.name} line {number}", PART_NAMES[part], tuple(values[name] for name in names))


def _from_csv(file: Path, names: Sequence[str]) -> Iterator[_Line]:
    text = read_document(file, in_lines=True).text
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # 131,072 characters are not a long document
    reader = csv.reader(StringIO(text), strict=True)
    cells, last = [], 0
    try:
        for row in reader:
            cells.append((last + 1, row))
            last = reader.line_num
    except csv.Error as error:
        raise FieldguideError(
            f"{file} line {last + 1} is no CSV ({error}); put texts with commas, quotes or line ends in quotes, and "
            "double the quotes in them"
        ) from error
    return _by_name(file, [(number, row) for number, row in cells if any(map(str.strip, row))], names)


def _from_tsv(file: Path, names: Sequence[str]) -> Iterator[_Line]:
    lines = enumerate(read_document(file, in_lines=True).text.split("\n"), 1)
    return _by_name(file, [(number, line.split("\t")) for number, line in lines if line.strip()], names)


def _by_name(file: Path, rows: list[tuple[int, list[str]]], names: Sequence[str]) -> Iterator[_Line]:
    columns = [*names, "split"]
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    if set(names) <= set(header):
        columns, rows = header, rows[1:]
    elif set(names) & set(header):
        missing = next(name for name in names if name not in header)
        raise FieldguideError(
            f"{file} line {rows[0][0]} names no column {missing!r}{did_you_mean(missing, header)}; "
            f"name {' and '.join(names)}"
        )
    for number, cells in rows:
        if not len(names) <= len(cells) <= len(columns):
            raise FieldguideError(
                f"{file} line {number} has {len(cells)} column{'' if len(cells) == 1 else 's'}; "
                f"expected {','.join(columns)} (the split may be missing)"
            )
        yield number, dict(zip(columns, cells, strict=False))


def _from_jsonl(file: Path, names: Sequence[str]) -> Iterator[_Line]:
    for number, line in enumerate(read_document(file, in_lines=True).text.split("\n"), 1):
        if line.strip():
            yield number, _object(f"{file} line {number}", line, (*names, "split"))


def _object(place: str, line: str, names: Sequence[str]) -> dict[str, str]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FieldguideError(f"{place} is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise FieldguideError(f'{place} is no JSON object; expected {{"{names[0]}": …, "{names[1]}": …}}')
    values = {name: content[name] for name in names if content.get(name) is not None}
    for name, value in values.items():
        if not isinstance(value, str | int | float):
            raise FieldguideError(f"{place}: {name} is {json.dumps(value)[:40]}; expected a text")
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


READERS: Mapping[str, Callable[[Path, Sequence[str]], Iterator[_Line]]] = {
    ".csv": _from_csv,
    ".tsv": _from_tsv,
    ".jsonl": _from_jsonl,
    ".ndjson": _from_jsonl,
}
