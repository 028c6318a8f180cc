"""Checkpoints read back, and nothing in them believed that is not what was written."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldguide.bounded import parse_json, read_plain
from fieldguide.errors import DamagedFile
from fieldguide.train.checkpoint.crew import ALONE, Crew
from fieldguide.train.checkpoint.disk import damaged, one_line, require_plain_file, verify
from fieldguide.train.checkpoint.folder import MANIFEST, TENSORS, VALUES, seal
from fieldguide.train.checkpoint.image import JSON_LIMIT, SCHEMA
from fieldguide.train.checkpoint.shards import LAYOUT, files_of, read_layouts
from fieldguide.train.checkpoint.stored import File, Stored, read, stored_in
from fieldguide.train.checkpoint.tree import State, decode

__all__ = ["NUMBERED", "Manifest", "load", "read_manifest", "stored"]

NUMBERED = re.compile(r"(\d+)-step-(\d+)")
_MANIFEST_LIMIT = 1 << 20
_NONSENSE = (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint says about itself; sealed by a checksum of its own."""

    step: int
    best: bool
    files: dict[str, dict[str, Any]]
    """``{name: {"size": bytes, "crc32": hex}}``."""


def load(folder: Path) -> State:
    """Read a checkpoint back, bit for bit, with its tensors on the CPU, whoever wrote it.

    Every file's size and checksum is compared with the manifest before any content is believed. Raises DamagedFile
    naming the file and what is wrong with it.
    """
    return read(stored(folder))


def stored(folder: Path, crew: Crew = ALONE) -> State:
    """``load`` without reading tensors: each of them is ``Stored``. A crew shares the work of checking their files."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    present = {name for name in os.listdir(folder) if not name.startswith(".")}
    for name in sorted(present - {*manifest.files, MANIFEST}):
        raise DamagedFile(f"{folder / name} does not belong to this checkpoint: the manifest does not list it")
    shards = files_of(manifest.files)
    names = shards or [TENSORS]
    for name in [*names[crew.rank :: crew.size], *(manifest.files.keys() - names)]:
        verify(folder / name, manifest.files[name])
    files = tuple(File(folder / name) for name in names)
    tensors = _tensors(folder / LAYOUT, files) if shards else stored_in(files, files[0].layouts)
    raw = read_plain(folder / VALUES, JSON_LIMIT)
    try:
        values = parse_json(raw)
        if values.keys() != {"schema", "state"} or values["schema"] != SCHEMA:
            raise ValueError(f"schema is not {SCHEMA}")
        used: set[str] = set()
        state = decode(values["state"], tensors, used)
        if used != tensors.keys():
            raise ValueError(f"tensors that no value refers to: {sorted(tensors.keys() - used)[:3]}")
    except _NONSENSE as error:
        raise damaged(folder / VALUES, one_line(error)) from error
    return state


def _tensors(path: Path, files: tuple[File, ...]) -> dict[str, Stored]:
    raw = read_plain(path, JSON_LIMIT)
    try:
        return stored_in(files, read_layouts(raw))
    except _NONSENSE as error:
        raise damaged(path, one_line(error)) from error


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint; raises DamagedFile unless it is exactly what was written."""
    path = Path(folder) / MANIFEST
    if not os.path.isdir(folder):
        raise DamagedFile(f"there is no checkpoint at {folder}")
    if NUMBERED.fullmatch(Path(folder).name) and os.path.islink(folder):
        raise damaged(Path(folder), "a link to somewhere else, not a folder")
    require_plain_file(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(_MANIFEST_LIMIT)
        content = json.loads(raw)
        if raw != seal({key: content[key] for key in ("schema", "step", "best", "files")}):
            raise ValueError("its own checksum does not fit")
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r} instead of {SCHEMA}: written by another version")
        manifest = Manifest(step=content["step"], best=content["best"], files=content["files"])
        sizes = {(type(entry["size"]), type(entry["crc32"]), len(entry)) for entry in manifest.files.values()}
        if sizes != {(int, str, 2)} or not (manifest.files.keys() == {TENSORS, VALUES} or files_of(manifest.files)):
            raise ValueError("it lists other files than a checkpoint has")
        if type(manifest.step) is not int or type(manifest.best) is not bool:
            raise ValueError("step and best have the wrong type")
    except (*_NONSENSE, OSError) as error:
        raise damaged(path, one_line(error)) from error
    named = NUMBERED.fullmatch(Path(folder).name)
    if named and int(named[2]) != manifest.step:
        raise damaged(path, f"it is of step {manifest.step}, not of step {int(named[2])}")
    return manifest
