"""A folder with one sub-folder of images (or texts) for each class, or ``train/ val/ test/`` of such folders."""

from collections.abc import Sequence
from pathlib import Path

from fieldguide.data.decode import SUFFIXES
from fieldguide.data.files import PART_NAMES, Listing, Row
from fieldguide.errors import FieldguideError


def list_folder(folder: Path, suffixes: Sequence[str] = SUFFIXES, kind: str = "images") -> Listing:
    """Every image below each class folder, in sorted order; other files and hidden ones are not looked at.

    ``val`` may also be called ``valid`` or ``validation``; ``val`` or ``test`` may be missing. Other ``suffixes`` list
    other files, which errors call by their ``kind``. Raises ``FieldguideError`` for a folder without class folders and
    for a class folder without images.
    """
    inside = _folders(folder)
    names = {path.name for path in inside}
    if "train" in names:
        strange = sorted(names - set(PART_NAMES))
        if strange:
            raise FieldguideError(
                f"{folder} holds train/ but also {strange[0]}/; beside train/ only val/ and test/ are understood"
            )
        rows = [row for path in inside for row in _rows(folder, path, PART_NAMES[path.name], suffixes, kind)]
    elif names and names <= set(PART_NAMES):
        raise FieldguideError(f"{folder} holds {', '.join(sorted(names))} but no train/")
    else:
        rows = _rows(folder, folder, "train", suffixes, kind)
    return Listing(folder, folder, rows)


def _rows(root: Path, part_folder: Path, part: str, suffixes: Sequence[str], kind: str) -> list[Row]:
    classes = _folders(part_folder)
    if not classes:
        raise FieldguideError(
            f"{part_folder} has no class folders ({_contents(part_folder)}); put each class's {kind} into a sub-folder "
            "of its own, or list them in a CSV with their labels"
        )
    rows = []
    for folder in classes:
        files = sorted(path for path in folder.rglob("*") if _is_one_of(path, suffixes))
        if not files:
            raise FieldguideError(
                f"class folder {folder} has no {kind} ({_contents(folder)}); accepted: {' '.join(suffixes)}"
            )
        rows += [Row(part, folder.name, path.relative_to(root).as_posix()) for path in files]
    return rows


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _is_one_of(path: Path, suffixes: Sequence[str]) -> bool:
    return path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()


def _contents(folder: Path) -> str:
    """``"it is empty"``, or how many files of which kinds stand there."""
    files = [path for path in folder.iterdir() if path.is_file()]
    if not files:
        return "it is empty" if not any(folder.iterdir()) else "it holds folders only"
    kinds = sorted({path.suffix.lower() or "no suffix" for path in files})
    return f"it holds {len(files)} file{'' if len(files) == 1 else 's'}: {' '.join(kinds[:5])}"
