"""A CSV file of ``path,label`` or ``path,label,split``."""

import csv
from pathlib import Path, PurePosixPath

from fieldguide.data.decode import SUFFIXES
from fieldguide.data.documents import read_document
from fieldguide.data.files import PART_NAMES, Listing, Row
from fieldguide.errors import FieldguideError, unknown


def list_table(file: Path) -> Listing:
    """One image a line: its path (below the CSV's folder, relative to it), its label, and perhaps train, val or test.

    A first line whose first cell does not end like an image file is a header; columns are taken in this order unless
    the header names ``path``, ``label`` and ``split``. Raises ``FieldguideError`` with the line's number.
    """
    try:
        lines = [
            (number, [cell.strip() for cell in cells])
            for number, cells in enumerate(csv.reader(read_document(file, in_lines=True).text.splitlines()), 1)
            if any(cell.strip() for cell in cells)
        ]
    except csv.Error as error:
        raise FieldguideError(f"{file} is not a CSV of path,label ({error})") from error
    columns = {"path": 0, "label": 1, "split": 2}
    if lines and Path(lines[0][1][0]).suffix.lower() not in SUFFIXES:
        header = [cell.lower() for cell in lines.pop(0)[1]]
        if {"path", "label"} <= set(header):
            columns = {name: header.index(name) if name in header else len(header) for name in columns}
    if not lines:
        raise FieldguideError(f"{file} lists no images; each line is path,label")
    rows = [_row(file, number, cells, columns) for number, cells in lines]
    return Listing(file, file.parent, rows)


def _row(file: Path, number: int, cells: list[str], columns: dict[str, int]) -> Row:
    found = {name: cells[column] if column < len(cells) else "" for name, column in columns.items()}
    if not found["path"] or not found["label"]:
        raise FieldguideError(f"{file} line {number} is {','.join(cells)!r}; expected path,label or path,label,split")
    path = PurePosixPath(found["path"].replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise FieldguideError(
            f"{file} line {number} names {found['path']!r}, which is not below {file.parent}; put the images there, or "
            "a link to their folder"
        )
    part = found["split"].lower() or "train"
    if part not in PART_NAMES:
        raise unknown(
            "split", found["split"], ("train", "val", "test"), f"{file} line {number}; known: train, val, test"
        )
    return Row(PART_NAMES[part], found["label"], found["path"])
