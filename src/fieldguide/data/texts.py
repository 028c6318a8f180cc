"""Running text in three parts, for language models: a file, a folder, or the source of Python's own library."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from fieldguide.data.documents import (
    SUFFIXES,
    Document,
    fingerprint,
    python_source,
    read_document,
    read_folder,
    readable,
)
from fieldguide.data.files import PART_NAMES
from fieldguide.errors import FieldguideError, did_you_mean

SHARE = 0.05
"""Of the text, for validation and again for test."""
_LEAST = 20
"""Characters that a text needs, to have a twentieth."""
_EMBEDDED = "python-source"

Documents = tuple[Document, ...]


@dataclass(frozen=True, eq=False)
class Texts:
    """Documents of one source in three parts, in the source's order.

    A source without a test part gives the last 5 % of its characters to it, and one without a validation part the 5 %
    before; a document may be cut in two.
    """

    name: str
    train: Documents
    val: Documents
    test: Documents
    fingerprint: str
    """SHA-256 of each part's names and texts as the source divides them."""


def read_text(source: str | Path) -> Texts:
    """The text of a source in three parts.

    ``source`` is a text file, a folder whose text files are read in the order of their paths, a folder with
    ``train``, ``val`` and ``test`` (``.txt`` files or folders, of which ``val`` and ``test`` may be missing), or
    ``"python-source"``, the source of Python's standard library without its tests. Files are in UTF-8, or UTF-16 with
    its byte-order mark.

    Raises ``FieldguideError`` for a source that is missing, empty, too short to divide, or no text.
    """
    if source == _EMBEDDED:
        return _divided(_EMBEDDED, {"train": python_source()})
    with readable(source) as path:
        return _opened(path)


def _opened(path: Path) -> Texts:
    if path.is_dir():
        return _divided(path.resolve().name, _parts(path))
    if not path.exists():
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        near = did_you_mean(path.name, [_EMBEDDED, *beside]) or ";"
        raise FieldguideError(f"no text {str(path)!r}{near} accepted: a text file, a folder of them, {_EMBEDDED}")
    return _divided(path.stem, {"train": [_full(read_document(path), path)]})


def _full(document: Document, file: Path) -> Document:
    if not document.text.strip():
        raise FieldguideError(f"{file} is empty; give a file with text in it")
    return document


def _parts(folder: Path) -> dict[str, list[Document]]:
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    named = {path: PART_NAMES[_stem(path)] for path in entries if _stem(path) in PART_NAMES}
    if "train" not in named.values():
        documents = read_folder(folder, folder)
        if not documents:
            raise FieldguideError(f"{folder} holds no text; accepted: {' '.join(SUFFIXES)}")
        return {"train": documents}
    strange = [path.name for path in entries if _stem(path) and path not in named]
    if strange:
        raise FieldguideError(
            f"{folder} holds train but also {strange[0]}; beside train only val and test are understood"
        )
    parts: dict[str, list[Document]] = {}
    for path, part in named.items():
        found = read_folder(path, folder) if path.is_dir() else [_full(read_document(path), path)]
        if not found:
            raise FieldguideError(f"{path} holds no text; accepted: {' '.join(SUFFIXES)}")
        parts.setdefault(part, []).extend(found)
    return parts


def _stem(path: Path) -> str:
    """What a part may be called: a folder or a ``.txt``; nothing for others, such as a README or a ``train.py``."""
    return path.name if path.is_dir() else path.stem if path.suffix.lower() == ".txt" else ""


def _divided(name: str, parts: dict[str, list[Document]]) -> Texts:
    source = fingerprint(
        text for part in sorted(parts) for text in (part, *(t for document in parts[part] for t in document))
    )
    train, size = parts["train"], sum(len(document.text) for document in parts["train"])
    if size < _LEAST and len(parts) < 3:
        raise FieldguideError(f"{name} has {size} characters, too few to divide; give at least {_LEAST}")
    held = {}
    for part in ("test", "val"):
        if part in parts:
            held[part] = parts[part]
        else:
            train, held[part] = _cut(train, max(1, round(SHARE * size)))
    return Texts(name, tuple(train), tuple(held["val"]), tuple(held["test"]), source)


def _cut(documents: Sequence[Document], last: int) -> tuple[list[Document], list[Document]]:
    """All but the last characters, and these."""
    ends = list(accumulate(len(document.text) for document in documents))
    place = ends[-1] - last
    before, after = [], []
    for (name, text), end in zip(documents, ends, strict=True):
        here = max(0, place - end + len(text))
        before.append(Document(name, text[:here]))
        after.append(Document(name, text[here:]))
    return [document for document in before if document.text], [document for document in after if document.text]
