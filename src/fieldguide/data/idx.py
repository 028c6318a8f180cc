"""MNIST's IDX files: magic number, sizes, bytes (LeCun, Cortes & Burges, "The MNIST database")."""

import gzip
import zlib
from io import BytesIO
from math import prod
from pathlib import Path

import numpy as np
import torch

from fieldguide.bounded import read_plain
from fieldguide.data.arrays import ArraySet
from fieldguide.data.pixels import MEMORY_LIMIT
from fieldguide.errors import DamagedFile, FieldguideError

_RATIO, _UNSUSPICIOUS = 100, 1 << 26
"""Images are packed to a few times less; what unpacks to 100 times as much, and 64 MB, wants to fill the memory."""
_STEMS = {"train": "train", "t10k": "test"}


def is_idx_folder(folder: Path) -> bool:
    return any(_file(folder, stem, "images", 3) for stem in _STEMS)


def read_idx_folder(folder: Path) -> ArraySet:
    """The parts of a folder of ``train-`` or ``t10k-`` + ``images-idx3-ubyte`` and ``labels-idx1-ubyte``, plain or gz.

    Where only ``t10k`` files stand, they are split. Raises ``FieldguideError`` when labels are missing or do not match
    the images, ``DamagedFile`` for a damaged file.
    """
    parts = {}
    for stem, part in _STEMS.items():
        image_file, label_file = _file(folder, stem, "images", 3), _file(folder, stem, "labels", 1)
        if not image_file:
            continue
        if not label_file:
            raise FieldguideError(f"{folder} has {image_file.name} but no {stem}-labels-idx1-ubyte[.gz]")
        images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
        if len(images) != len(labels):
            raise FieldguideError(f"{image_file} holds {len(images)} images but {label_file.name} {len(labels)} labels")
        if not len(images):
            raise FieldguideError(f"{image_file} holds no images")
        parts[part] = torch.from_numpy(images).unsqueeze(1), labels
    return ArraySet(folder.resolve().name, parts)


def read_idx(file: Path, ndim: int) -> np.ndarray:
    """The unsigned bytes of an IDX file (gzip by its content, not its name) with this many axes."""
    content = read_plain(file, MEMORY_LIMIT + (1 << 10))
    if content[:2] == b"\x1f\x8b":
        content = _decompressed(file, content)
    expected = bytes((0, 0, 8, ndim))
    if content[:4] != expected:
        raise DamagedFile(
            f"{file} is not an IDX file of unsigned bytes with {ndim} axes: it starts with {content[:4].hex(' ')} "
            f"instead of {expected.hex(' ')}"
        )
    header = 4 + 4 * ndim
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4))
    if len(content) < header or len(content) - header != prod(shape):
        raise DamagedFile(
            f"{file} announces {'×'.join(map(str, shape))} bytes and holds {max(0, len(content) - header)}; get it anew"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def _decompressed(file: Path, content: bytes) -> bytes:
    most = max(_UNSUSPICIOUS, _RATIO * len(content))
    try:
        with gzip.open(BytesIO(content)) as packed:
            plain = packed.read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DamagedFile(f"{file} is a damaged or truncated gzip file ({error}); get it anew") from error
    if len(plain) > most:
        raise DamagedFile(f"{file} was refused: {len(content):,} bytes that unpack to more than {most:,}")
    return plain


def _file(folder: Path, stem: str, kind: str, ndim: int) -> Path | None:
    names = (f"{stem}-{kind}{mark}idx{ndim}-ubyte{end}" for mark in "-." for end in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)
