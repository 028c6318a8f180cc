"""Arrays as image data: from an ``.npz`` file, or given in Python.

Legend: n images, c channels, h height, w width.
"""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldguide.bounded import open_plain
from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.shapes import Tensor, UInt8

LAYOUTS: tuple[dict[str, tuple[str, str]], ...] = (
    {"train": ("images", "labels")},
    {"train": ("x", "y")},
    {"train": ("x_train", "y_train"), "val": ("x_val", "y_val"), "test": ("x_test", "y_test")},
    {
        "train": ("train_images", "train_labels"),
        "val": ("val_images", "val_labels"),
        "test": ("test_images", "test_labels"),
    },
)
"""The names an ``.npz`` may use for each part; ``val`` and ``test`` may be missing, ``classes`` may name classes."""

Parts = dict[str, tuple[UInt8[Tensor, "n c h w"], np.ndarray]]
"""uint8 images and labels (text or whole numbers) of each part."""


@dataclass(frozen=True, eq=False)
class ArraySet:
    name: str
    parts: Parts
    classes: tuple[str, ...] | None = None
    """In the source's order; ``None`` when it names none, so that they follow from the labels."""


def read_npz(file: Path) -> ArraySet:
    """The parts of an ``.npz`` file, and its class names if it gives them; nothing in it is ever executed.

    Raises ``FieldguideError`` when the arrays of no layout are there or cannot be images and labels, ``DamagedFile``
    for a damaged archive.
    """
    try:
        with open_plain(file):
            _require_no_bomb(file)
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except DamagedFile:
        raise
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DamagedFile(f"{file} cannot be read as .npz arrays ({' '.join(str(error).split())})") from error
    for layout in LAYOUTS:
        if set(layout["train"]) <= set(arrays):
            pairs = {part: names for part, names in layout.items() if set(names) <= set(arrays)}
            parts = {part: as_pair(arrays[x], arrays[y], f"{file}: {x}") for part, (x, y) in pairs.items()}
            return array_set(file.stem, parts, arrays.get("classes"))
    accepted = "; ".join(", ".join(layout["train"]) for layout in LAYOUTS)
    raise FieldguideError(f"{file} holds the arrays {', '.join(sorted(arrays)) or '(none)'}; accepted: {accepted}")


def _require_no_bomb(file: Path) -> None:
    """Raises ``DamagedFile`` for an archive that unpacks to 100 times its size, and more than 64 MB."""
    size = file.stat().st_size
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            plain = sum(member.file_size for member in archive.infolist())
        if plain > max(100 * size, 1 << 26):
            raise DamagedFile(f"{file} was refused: {size:,} bytes that unpack to {plain:,}")


def array_set(name: str, parts: Parts, classes: Sequence[Any] | np.ndarray | None) -> ArraySet:
    """``parts`` with whole-number labels replaced by the class names they index, where names are given."""
    if classes is None:
        return ArraySet(name, parts)
    names = np.array([str(c) for c in classes])
    renamed = {}
    for part, (images, labels) in parts.items():
        if labels.dtype.kind in "iu":
            wrong = (labels < 0) | (labels >= len(names))
            _refuse(
                wrong,
                f"a label outside the {len(names)} classes",
                "mend the label or name its class",
                f"{name}: {part}",
            )
            labels = names[labels]
        renamed[part] = images, labels
    return ArraySet(name, renamed, tuple(names.tolist()))


def as_pair(images: Any, labels: Any, where: str) -> tuple[UInt8[Tensor, "n c h w"], np.ndarray]:
    pixels, targets = as_pixels(images, where), as_labels(labels, where)
    if len(pixels) != len(targets):
        raise FieldguideError(f"{where}: {len(pixels)} images but {len(targets)} labels")
    if not len(pixels):
        raise FieldguideError(f"{where}: no images")
    return pixels, targets


def as_pixels(images: Any, where: str) -> UInt8[Tensor, "n c h w"]:
    """uint8 pixels from an array or tensor of shape (n,h,w), (n,c,h,w) or (n,h,w,c) with 1 to 4 channels.

    Whole numbers must lie in 0–255, floating-point numbers in 0–1 (they are rounded to 255ths). When both axes could be
    the channels, the first is. Raises ``FieldguideError`` for other shapes and ranges and for pixels not finite.
    """
    array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4:
        raise FieldguideError(f"{where} has shape {array.shape}; expected (n, h, w), (n, c, h, w) or (n, h, w, c)")
    if not 1 <= array.shape[1] <= 4:
        if not 1 <= array.shape[3] <= 4:
            raise FieldguideError(f"{where} has shape {array.shape}: no axis of 1 to 4 channels")
        array = array.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(_eight_bit(array, where)))


def _eight_bit(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype.kind not in "iuf":
        raise FieldguideError(f"{where} holds {array.dtype}; images are numbers")
    if array.dtype.kind == "f":
        _refuse(~np.isfinite(array), "a pixel that is not finite", "mend or remove it", where)
        _refuse((array < 0) | (array > 1), "a value outside 0–1", "scale floating-point pixels to 0–1", where)
        return np.rint(array * 255).astype(np.uint8)
    _refuse((array < 0) | (array > 255), "a value outside 0–255", "scale it", where)
    return array.astype(np.uint8)


def _refuse(wrong: np.ndarray, what: str, remedy: str, where: str) -> None:
    if wrong.any():
        index = int(wrong.reshape(len(wrong), -1).any(1).argmax())
        raise FieldguideError(f"{where}: image {index} has {what}; {remedy}")


def as_labels(labels: Any, where: str) -> np.ndarray:
    """Labels as text or whole numbers (n,), from (n,) or (n, 1)."""
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.rint(array)).all():
        array = array.astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iuUb":
        raise FieldguideError(
            f"{where}: labels have shape {array.shape} and type {array.dtype}; expected (n,) whole numbers or text"
        )
    return array.astype(np.int64) if array.dtype.kind == "b" else array
