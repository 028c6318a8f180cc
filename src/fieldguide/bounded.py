"""Files that may be a stranger's: opened without waiting, read no further than such a file is long, parsed as data."""

import json
import os
import stat
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path
from typing import Any

from fieldguide.errors import DamagedFile

MB = 1_000_000
_VALUES_LIMIT = 4_000_000
"""Values in a JSON file: each costs up to a hundred bytes of memory, and two of its file."""
_DEPTH_LIMIT = 50
"""Levels of a JSON file: whoever walks through it must not run out of stack."""


def open_plain(path: Path | str) -> BufferedReader:
    """A file open for reading; a pipe or a device, which may never end, is a :class:`DamagedFile`.

    Raises :class:`OSError` for a file that is not there, or not ours to read.
    """
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise DamagedFile(f"{path} is a pipe or a device and no file; give a file")


def read_plain(path: Path | str, most: int) -> bytes:
    """The bytes of a file as :func:`open_plain` takes it; :class:`DamagedFile` for more than ``most``."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(most + 1) if size <= most else b""
    if max(size, len(content)) > most:
        raise DamagedFile(f"{path} is refused: it is larger than the {most // MB:,} MB that such a file may have")
    return content


def read_json(path: Path | str, most: int = 16 * MB) -> Any:
    """A JSON file in UTF-8. Raises :class:`DamagedFile` when it cannot be read, or :func:`parse_json` refuses it."""
    try:
        return parse_json(read_plain(path, most))
    except OSError as error:
        raise DamagedFile(f"cannot read {path}: {error.strerror or error}") from error
    except DamagedFile:
        raise
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{path} is not UTF-8 (byte {error.start})") from error
    except ValueError as error:
        raise DamagedFile(f"{path} is not whole JSON: {error}; copy or download it again") from error


def parse_json(text: bytes) -> Any:
    """JSON in UTF-8, as the standard has it.

    Raises :class:`ValueError` for anything else: a name that occurs twice, NaN, and what would fill memory or stack.
    """
    if sum(map(text.count, (b",", b"[", b"{"))) > _VALUES_LIMIT:
        raise ValueError(f"it holds more than {_VALUES_LIMIT:,} values")
    try:
        value = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    level = [value]
    for _ in range(_DEPTH_LIMIT):
        inner = (node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list))
        level = [node for nodes in inner for node in nodes]
    if level:
        raise ValueError("it is nested too deep")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError(f"the name {_twice(name for name, _ in pairs)!r:.40} occurs twice")
    return entries


def _twice(names: Iterable[str]) -> str:
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")
