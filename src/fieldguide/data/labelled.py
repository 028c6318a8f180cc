"""Texts with a class each, in three parts: tables, folders, or lines of Python's own library."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fieldguide.data.buckets import OnLong, Sample, Sequences, encoded
from fieldguide.data.documents import SUFFIXES, fingerprint, read_document, readable
from fieldguide.data.folder import list_folder
from fieldguide.data.images import class_names, encode
from fieldguide.data.python_lines import python_lines
from fieldguide.data.records import READERS, Record, read_records
from fieldguide.data.splits import TEST_SHARE, VALIDATION_LIMIT, VALIDATION_SHARE, stratified
from fieldguide.data.tokenizer import Tokenizer
from fieldguide.errors import FieldguideError, did_you_mean
from fieldguide.shapes import Int, Tensor

_EMBEDDED = "python-lines"
_ACCEPTED = (
    f"accepted: {_EMBEDDED}, a {' '.join(READERS)} of text,label, "
    "or a folder with one sub-folder of text files per class"
)


@dataclass(frozen=True, eq=False)
class LabelledPart:
    """Texts with the numbers of their classes, and where each stands in the source."""

    texts: Sequence[str]
    labels: Int[Tensor, " n"]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, indices: Int[Tensor, " b"]) -> "LabelledPart":
        order: list[int] = indices.tolist()
        return LabelledPart([self.texts[i] for i in order], self.labels[indices], [self.names[i] for i in order])

    def samples(self, tokenizer: Tokenizer, max_len: int | None, on_long: OnLong = "stop") -> list[Sample]:
        """``(tokens, class number)`` of each text, for ``Buckets``; as ``LabelledTexts.tokenized``."""
        rows = encoded(self.texts, self.names, tokenizer, max_len, on_long)
        return list(zip(rows, self.labels.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class LabelledTexts:
    """Texts of one task in three parts; those a source lacks are split off as ``ImageData`` does, class by class."""

    name: str
    train: LabelledPart
    val: LabelledPart
    test: LabelledPart
    classes: tuple[str, ...]
    fingerprint: str
    """SHA-256 of the classes and of each part's names, labels and texts as the source divides them."""

    def tokenized(self, tokenizer: Tokenizer, max_len: int | None, on_long: OnLong = "stop") -> Sequences:
        """Batches ``(tokens, keep, labels)``, with start and end around each text where the tokenizer has them.

        Raises ``FieldguideError`` for a text longer than ``max_len`` tokens, unless ``on_long="cut"``.
        """
        parts = {"train": self.train, "val": self.val, "test": self.test}
        samples = {name: part.samples(tokenizer, max_len, on_long) for name, part in parts.items()}
        mark = fingerprint((self.fingerprint, tokenizer.fingerprint, str(max_len), on_long))
        return Sequences(self.name, samples, [tokenizer.specials.get("pad", 0)], mark)


def open_labelled(source: str | Path, *, split_seed: int = 0) -> LabelledTexts:
    """The labelled texts of a source in three parts.

    ``source`` is a ``.csv``, ``.tsv`` or ``.jsonl`` of text, label and perhaps split; a folder with one sub-folder of
    text files per class, or ``train/``, ``val/``, ``test/`` of such; or ``"python-lines"``: 6,000 lines of Python's
    library that are code, comments or docstrings.

    Raises ``FieldguideError`` for a source that is unknown, empty or inconsistent, with the file and its line.
    """
    name, records = _read(source)
    labels = [label for _, part, (_, label) in records if part == "train"]
    classes = class_names(labels)
    if not classes:
        raise FieldguideError(f"{source} has no training part; give one called train")
    if len(classes) < 2:
        raise FieldguideError(f"{source} has a single class ({', '.join(classes)}); a classifier needs at least two")
    found = {record.part: [other for other in records if other.part == record.part] for record in _first(records)}
    parts = {part: _part(rows, classes, f"{name}: {part}") for part, rows in found.items()}
    if "test" not in parts:
        parts["train"], parts["test"] = _hold_out(parts["train"], TEST_SHARE, classes, split_seed)
    if "val" not in parts:
        share = min(VALIDATION_SHARE, VALIDATION_LIMIT / len(parts["train"]))
        parts["train"], parts["val"] = _hold_out(parts["train"], share, classes, split_seed)
    mark = fingerprint((*classes, *(text for place, part, values in records for text in (part, place, *values))))
    return LabelledTexts(name, parts["train"], parts["val"], parts["test"], classes, mark)


def open_labelled_part(source: str | Path, *, classes: Sequence[str]) -> LabelledPart:
    """The texts of a source to evaluate a trained model on: its test part, else its validation part, else all it has.

    Raises ``FieldguideError`` as ``open_labelled`` does, and for a label outside ``classes``, the model's.
    """
    name, records = _read(source)
    there = {record.part for record in records}
    part = next(part for part in ("test", "val", "train") if part in there)
    return _part([record for record in records if record.part == part], classes, f"{name}: {part}")


def _read(source: str | Path) -> tuple[str, list[Record]]:
    if source == _EMBEDDED:
        return _EMBEDDED, [Record(place, "train", (text, label)) for place, text, label in python_lines()]
    with readable(source) as path:
        return _opened(path)


def _opened(path: Path) -> tuple[str, list[Record]]:
    if path.is_dir():
        return path.resolve().name, _read_folder(path)
    if not path.exists():
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        near = did_you_mean(path.name, [_EMBEDDED, *beside]) or ";"
        raise FieldguideError(f"no labelled texts {str(path)!r}{near} {_ACCEPTED}")
    return path.stem, [
        Record(place, part, (text, label.strip()))
        for place, part, (text, label) in read_records(path, ("text", "label"))
    ]


def _read_folder(folder: Path) -> list[Record]:
    records = []
    for part, label, file in list_folder(folder, SUFFIXES, "text files").rows:
        text = read_document(folder / file).text
        if not text.strip():
            raise FieldguideError(f"{folder / file} is empty; remove it")
        records.append(Record(file, part, (text, label)))
    return records


def _first(records: Iterable[Record]) -> Iterable[Record]:
    """One record of each part."""
    return {record.part: record for record in records}.values()


def _part(records: Sequence[Record], classes: Sequence[str], where: str) -> LabelledPart:
    names = [record.place for record in records]
    labels = encode(np.array([record.values[1] for record in records]), classes, where, names)
    return LabelledPart([record.values[0] for record in records], labels, names)


def _hold_out(part: LabelledPart, share: float, classes: Sequence[str], seed: int) -> tuple[LabelledPart, LabelledPart]:
    rest, held = stratified(part.labels, share, classes, seed)
    return part.subset(rest), part.subset(held)
