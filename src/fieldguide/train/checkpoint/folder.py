"""One checkpoint: a folder that is either whole or not there, sealed by checksums."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fieldguide.errors import FieldguideError
from fieldguide.train.checkpoint.disk import sync_folder, write
from fieldguide.train.checkpoint.image import SCHEMA, Image
from fieldguide.train.checkpoint.tree import State

__all__ = ["MANIFEST", "TENSORS", "VALUES", "Unconfirmed", "appearing", "save", "seal", "write_image", "write_manifest"]

TENSORS, VALUES, MANIFEST = "state.safetensors", "state.json", "manifest.json"


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
    with appearing(folder) as temporary:
        files = {
            TENSORS: write(temporary / TENSORS, image.safetensors()),
            VALUES: write(temporary / VALUES, [image.json()]),
        }
        write_manifest(temporary, step, best, files)


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A folder under a temporary name; at the end of the ``with`` block it is synced and has its own.

    Raises FieldguideError when ``folder`` exists; after an error nothing is left. Raises Unconfirmed when all went
    well but for the last sync.
    """
    if folder.exists():
        raise FieldguideError(f"checkpoint {folder} exists already, and checkpoints never change; choose another name")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of an earlier failure that could not even be cleared away
        os.mkdir(temporary)
        yield temporary
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


def write_manifest(folder: Path, step: int, best: bool, files: Mapping[str, Any]) -> None:
    """The last file of a checkpoint: what the others have to be."""
    write(folder / MANIFEST, [seal({"schema": SCHEMA, "step": step, "best": best, "files": files})])


def seal(content: dict[str, Any]) -> bytes:
    """The manifest's bytes: its content in one fixed layout and, last, that content's SHA-256."""
    body = json.dumps(content, indent=2, sort_keys=True)
    return json.dumps(
        {**content, "~seal": hashlib.sha256(body.encode()).hexdigest()}, indent=2, sort_keys=True
    ).encode()
