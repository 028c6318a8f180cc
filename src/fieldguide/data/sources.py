"""One door for every source of labelled images: says what a source is, and reads it."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fieldguide.data.arrays import ArraySet, read_npz
from fieldguide.data.files import Listing, read_listing
from fieldguide.data.folder import list_folder
from fieldguide.data.idx import is_idx_folder, read_idx_folder
from fieldguide.data.images import Found, ImageData, assemble, read_arrays
from fieldguide.data.resize import ChooseSize, natural_size
from fieldguide.data.splits import Split
from fieldguide.data.table import list_table
from fieldguide.errors import FieldguideError, did_you_mean

OnBadFile = Literal["stop", "skip"]

_EMBEDDED = ("digits",)
_ACCEPTED = (
    "accepted: digits, a folder with one sub-folder per class (or train/ val/ test/ of such), "
    "a .csv of path,label, a folder of MNIST-style IDX files, an .npz of arrays"
)


def open_images(
    source: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    on_bad_file: OnBadFile = "stop",
    split_seed: int = 0,
) -> ImageData:
    """The labelled images of a source in three parts, with the statistics of the training part.

    ``source`` is ``"digits"`` (scikit-learn's 1,797 scans), a folder with one sub-folder per class, a folder with
    ``train/``, ``val/``, ``test/`` of such, a ``.csv`` of ``path,label[,split]``, a folder of MNIST-style IDX files, or
    an ``.npz`` (``fieldguide.data.arrays.LAYOUTS``). ``image_size`` is the side of a square, a range of sides
    ``(smallest, largest)``, or ``None`` to keep what the images have (``fieldguide.data.resize.natural_size``);
    ``channels`` 1 or 3 converts. Missing parts are split off as ``ImageData`` says.

    Raises ``FieldguideError`` for a source that is unknown, empty or inconsistent, and one that lists every unreadable
    file; ``on_bad_file="skip"`` leaves those out instead.
    """
    choose_size = partial(natural_size, image_size=image_size)
    found = _read(source, classes=None, choose_size=choose_size, channels=channels, on_bad_file=on_bad_file)
    return assemble(found, split_seed=split_seed)


def open_split(
    source: str | Path,
    *,
    classes: Sequence[str],
    image_size: tuple[int, int],
    channels: int,
    on_bad_file: OnBadFile = "stop",
) -> Split:
    """The images of a source to evaluate a trained model on: its test part, else its validation part, else all it has.

    ``classes``, ``image_size`` (height, width) and ``channels`` are the model's. Nothing is split off and one class is
    enough. Raises ``FieldguideError`` as ``open_images`` does, and for a label outside ``classes``.
    """
    found = _read(source, classes=classes, choose_size=lambda _: image_size, channels=channels, on_bad_file=on_bad_file)
    return next(found.parts[part] for part in ("test", "val", "train") if part in found.parts)


def _read(
    source: str | Path,
    *,
    classes: Sequence[str] | None,
    choose_size: ChooseSize,
    channels: int | None,
    on_bad_file: OnBadFile,
) -> Found:
    if channels not in (None, 1, 3):
        raise FieldguideError(f"channels is {channels}; choose 1 (grey) or 3 (colour)")
    try:
        held = _look(source)
    except OSError as error:
        raise FieldguideError(f"{error.filename or source} cannot be read ({error.strerror or error})") from error
    if isinstance(held, Listing):
        return read_listing(held, classes=classes, choose_size=choose_size, channels=channels, on_bad_file=on_bad_file)
    return read_arrays(held, classes=classes, choose_size=choose_size, channels=channels)


def _look(source: str | Path) -> Listing | ArraySet:
    """What stands at ``source``: image files with their labels, or arrays."""
    if source == "digits":
        return digits()
    path = Path(source).expanduser()
    if path.is_dir():
        return read_idx_folder(path) if is_idx_folder(path) else list_folder(path)
    if not path.exists():
        near = did_you_mean(path.name, [*_EMBEDDED, *_names(path.parent)])
        raise FieldguideError(f"no data source {str(source)!r}{near or ';'} {_ACCEPTED}")
    if path.suffix.lower() not in _FILES:
        raise FieldguideError(f"{path} is a {path.suffix or 'file without suffix'}; {_ACCEPTED}")
    return _FILES[path.suffix.lower()](path)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def digits() -> ArraySet:
    """1,797 real scans of handwritten digits, 8×8 grey (Alpaydin & Kaynak 1998; scikit-learn's ``load_digits``)."""
    from sklearn.datasets import load_digits

    scans: Any = load_digits()
    images = torch.from_numpy(np.rint(scans.images * (255 / 16)).astype(np.uint8))
    return ArraySet("digits", {"train": (images.unsqueeze(1), scans.target)})


_FILES = {".csv": list_table, ".npz": read_npz}
