"""One checkpoint: a folder that is either whole or not there, sealed by checksums."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.train.checkpoint.disk import damaged, one_line, require_plain_file, sync_folder, verify, write
from fieldguide.train.checkpoint.image import SCHEMA, Image
from fieldguide.train.checkpoint.tree import State, decode

__all__ = [
    "MANIFEST",
    "NUMBERED",
    "TENSORS",
    "VALUES",
    "Manifest",
    "Unconfirmed",
    "load",
    "read_manifest",
    "save",
    "seal",
    "write_image",
]

TENSORS, VALUES, MANIFEST = "state.safetensors", "state.json", "manifest.json"
NUMBERED = re.compile(r"(\d+)-step-(\d+)")
_MANIFEST_LIMIT = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint says about itself; sealed by a checksum of its own."""

    step: int
    best: bool
    files: dict[str, dict[str, Any]]
    """``{name: {"size": bytes, "crc32": hex}}``."""


class Unconfirmed(OSError):
    """A checkpoint is whole and has its name, but something that comes after that failed."""


def save(folder: Path, state: State, *, step: int = 0, best: bool = False) -> None:
    """Write ``state`` as a new checkpoint: afterwards it is on the disk whole, or nothing has changed.

    Tied tensors are stored once and come back tied; tensors of any device, stride and dtype of the safetensors format
    are accepted. Raises FieldguideError when ``folder`` exists (checkpoints are immutable), TypeError naming the path
    of a value that is neither a tensor nor plain, and OSError when the disk refuses.
    """
    write_image(Path(folder), Image.of(state), step=step, best=best)


def write_image(folder: Path, image: Image, *, step: int, best: bool) -> None:
    """``save`` for what has been laid out already; raises Unconfirmed when all went well but for the last sync."""
    if folder.exists():
        raise FieldguideError(f"checkpoint {folder} exists already, and checkpoints never change; choose another name")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of an earlier failure that could not even be cleared away
        os.mkdir(temporary)
        files = {
            TENSORS: write(temporary / TENSORS, image.safetensors()),
            VALUES: write(temporary / VALUES, [image.json()]),
        }
        write(temporary / MANIFEST, [seal({"schema": SCHEMA, "step": step, "best": best, "files": files})])
        sync_folder(temporary)
        os.rename(temporary, folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):  # a failed write does not know its file
            error.filename, error.filename2 = str(folder), None
        raise
    try:
        sync_folder(folder.parent)
    except OSError as error:
        raise Unconfirmed(error.errno, f"{error.strerror}; a power cut may still take it", str(folder)) from error


def load(folder: Path) -> State:
    """Read a checkpoint back, bit for bit, with its tensors on the CPU.

    Every file's size and checksum is compared with the manifest before any content is believed. Raises DamagedFile
    naming the file and what is wrong with it.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    present = {name for name in os.listdir(folder) if not name.startswith(".")}
    for name in sorted(present - {*manifest.files, MANIFEST}):
        raise DamagedFile(f"{folder / name} does not belong to this checkpoint: the manifest does not list it")
    for name, expected in manifest.files.items():
        verify(folder / name, expected)
    try:
        # Clones, because the file is only mapped: a run must not go on living on pages of a file it will delete.
        tensors = {key: tensor.clone() for key, tensor in load_file(folder / TENSORS).items()}
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise damaged(folder / TENSORS, f"not a safetensors file ({one_line(error)})") from error
    try:
        values = json.loads((folder / VALUES).read_bytes())
        if values.keys() != {"schema", "state"} or values["schema"] != SCHEMA:
            raise ValueError(f"schema is not {SCHEMA}")
        used: set[str] = set()
        state = decode(values["state"], tensors, used)
        if used != tensors.keys():
            raise ValueError(f"tensors that no value refers to: {sorted(tensors.keys() - used)[:3]}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise damaged(folder / VALUES, one_line(error)) from error
    return state


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
        sizes = [(type(entry["size"]), type(entry["crc32"]), len(entry)) for entry in manifest.files.values()]
        if manifest.files.keys() != {TENSORS, VALUES} or sizes != [(int, str, 2)] * 2:
            raise ValueError("it lists other files than a checkpoint has")
        if type(manifest.step) is not int or type(manifest.best) is not bool:
            raise ValueError("step and best have the wrong type")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        raise damaged(path, one_line(error)) from error
    named = NUMBERED.fullmatch(Path(folder).name)
    if named and int(named[2]) != manifest.step:
        raise damaged(path, f"it is of step {manifest.step}, not of step {int(named[2])}")
    return manifest


def seal(content: dict[str, Any]) -> bytes:
    """The manifest's bytes: its content in one fixed layout and, last, that content's SHA-256."""
    body = json.dumps(content, indent=2, sort_keys=True)
    return json.dumps(
        {**content, "~seal": hashlib.sha256(body.encode()).hexdigest()}, indent=2, sort_keys=True
    ).encode()
