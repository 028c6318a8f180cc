"""Texts and their translations in three parts: two aligned files, a folder of them, a table, or written dates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fieldguide.data.buckets import OnLong, Sample, Sequences, encoded, require_length
from fieldguide.data.dates import dates
from fieldguide.data.documents import fingerprint, read_document, readable
from fieldguide.data.feed import stream
from fieldguide.data.files import PART_NAMES
from fieldguide.data.records import READERS, read_records
from fieldguide.data.texts import SHARE
from fieldguide.data.tokenizer import Tokenizer
from fieldguide.errors import FieldguideError, did_you_mean

_EMBEDDED = "dates"
_ACCEPTED = (
    f"accepted: {_EMBEDDED}, two aligned files as SOURCE,TARGET, a {' '.join(READERS)} of source,target, "
    "or a folder with source.txt and target.txt, or train.<source> and train.<target>"
)


@dataclass(frozen=True, eq=False)
class PairPart:
    """Sources, their answers, and where each pair stands."""

    sources: Sequence[str]
    answers: Sequence[str]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.sources)

    def subset(self, indices: Sequence[int]) -> "PairPart":
        rows = (self.sources, self.answers, self.names)
        return PairPart(*([row[i] for i in indices] for row in rows))

    def samples(self, tokenizer: Tokenizer, max_len: int | None, on_long: OnLong = "stop") -> list[Sample]:
        """``(source, answer)`` tokens of each pair, for ``Buckets``; as ``Pairs.tokenized``."""
        if "end" not in tokenizer.specials:
            raise FieldguideError("the tokenizer has no end token, so an answer could not end; give one with it")
        sources = encoded(self.sources, self.names, tokenizer, max_len, on_long)
        answers = [tokenizer.encode(answer) for answer in self.answers]
        if max_len is not None and on_long == "cut":
            answers = [answer[: max_len - 1] for answer in answers]
        answers = [[*answer, tokenizer.specials["end"]] for answer in answers]
        require_length(answers, [f"the answer of {name}" for name in self.names], max_len)
        return list(zip(sources, answers, strict=True))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of one task in three parts.

    A source without a test or validation part gives 5 % of its distinct sources, at random, to each; a sentence that
    stands twice is on one side only. The choice is fixed by the data and ``split_seed``.
    """

    name: str
    train: PairPart
    val: PairPart
    test: PairPart
    fingerprint: str
    """SHA-256 of each part's pairs as the source divides them."""

    def tokenized(self, tokenizer: Tokenizer, max_len: int | None, on_long: OnLong = "stop") -> Sequences:
        """Batches ``(source, answer, source_keep, answer_keep)``.

        A source is what an encoder reads (``Tokenizer.frame``), an answer its tokens and the end. Raises
        ``FieldguideError`` for a tokenizer without an end token, and for a text longer than ``max_len`` tokens unless
        ``on_long="cut"``.
        """
        parts = {"train": self.train, "val": self.val, "test": self.test}
        samples = {name: part.samples(tokenizer, max_len, on_long) for name, part in parts.items()}
        mark = fingerprint((self.fingerprint, tokenizer.fingerprint, str(max_len), on_long))
        pad = tokenizer.specials.get("pad", 0)
        return Sequences(self.name, samples, [pad, pad], mark)


def open_pairs(source: str | Path, *, split_seed: int = 0) -> Pairs:
    """The pairs of a source in three parts.

    ``source`` is two aligned text files as ``"SOURCE,TARGET"``; a folder with ``source.txt`` and ``target.txt``, or
    with ``train.<a>`` and ``train.<b>`` and perhaps ``val`` and ``test`` likewise, where the first in the alphabet is
    the source; a ``.tsv``, ``.csv`` or ``.jsonl`` of source and target; or ``"dates"``: 22,000 dates as people write
    them and in ISO 8601.

    Raises ``FieldguideError`` for a source that is missing or empty, for files of unequal length, and empty lines.
    """
    name, parts = _read(source)
    if "train" not in parts:
        raise FieldguideError(f"{source} has no training part; give one called train")
    rows = (text for part in sorted(parts) for row in _rows(parts[part]) for text in (part, *row))
    mark, train, held = fingerprint(rows), parts["train"], dict(parts)
    for i, part in enumerate(("test", "val")):
        if part not in parts:
            train, held[part] = _hold_out(train, SHARE, stream(split_seed, i), name)
    return Pairs(name, train, held["val"], held["test"], mark)


def open_pairs_part(source: str | Path) -> PairPart:
    """The pairs of a source to evaluate a trained model on: its test part, else its validation part, else all it has.

    Raises ``FieldguideError`` as ``open_pairs`` does.
    """
    parts = _read(source)[1]
    return next(parts[part] for part in ("test", "val", "train") if part in parts)


def _rows(part: PairPart) -> list[tuple[str, str]]:
    return list(zip(part.sources, part.answers, strict=True))


def _hold_out(part: PairPart, share: float, generator: torch.Generator, name: str) -> tuple[PairPart, PairPart]:
    distinct = list(dict.fromkeys(part.sources))
    if len(distinct) < 2:
        raise FieldguideError(f"{name} has too few different sources to divide; give at least 3")
    count = max(1, round(share * len(distinct)))
    held = {distinct[i] for i in torch.randperm(len(distinct), generator=generator)[:count].tolist()}
    indices = range(len(part))
    inside = [i for i in indices if part.sources[i] in held]
    return part.subset([i for i in indices if part.sources[i] not in held]), part.subset(inside)


def _read(source: str | Path) -> tuple[str, dict[str, PairPart]]:
    if source == _EMBEDDED:
        return _EMBEDDED, {name: _numbered(rows, name) for name, rows in dates().items()}
    with readable(source) as path:
        return _opened(path)


def _opened(path: Path) -> tuple[str, dict[str, PairPart]]:
    if path.is_dir():
        return path.resolve().name, _read_folder(path)
    if path.exists():
        return path.stem, _read_table(path)
    first, comma, second = str(path).partition(",")
    if comma:
        pair = Path(first.strip()), Path(second.strip()).expanduser()
        return pair[0].stem, {"train": _aligned(*pair)}
    beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    raise FieldguideError(f"no pairs {str(path)!r}{did_you_mean(path.name, [_EMBEDDED, *beside]) or ';'} {_ACCEPTED}")


def _numbered(rows: Sequence[tuple[str, str]], part: str) -> PairPart:
    sources, answers = zip(*rows, strict=True)
    return PairPart(sources, answers, [f"{part} {i}" for i in range(len(rows))])


def _read_table(file: Path) -> dict[str, PairPart]:
    records = read_records(file, ("source", "target"))
    parts: dict[str, PairPart] = {}
    for part in sorted({record.part for record in records}):
        rows = [(*record.values, record.place) for record in records if record.part == part]
        parts[part] = PairPart(*zip(*rows, strict=True))
    return parts


def _read_folder(folder: Path) -> dict[str, PairPart]:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    by_name = {path.stem: path for path in files}
    if {"source", "target"} <= set(by_name):
        return {"train": _aligned(by_name["source"], by_name["target"])}
    parts: dict[str, list[Path]] = {}
    for file in (file for file in files if file.stem in PART_NAMES):
        parts.setdefault(PART_NAMES[file.stem], []).append(file)
    if not parts:
        raise FieldguideError(f"{folder} holds no pairs; {_ACCEPTED}")
    for part, found in parts.items():
        if len(found) != 2:
            raise FieldguideError(
                f"{folder} holds {len(found)} files called {part} ({', '.join(file.name for file in found)}); "
                f"give two, {part}.<source> and {part}.<target>"
            )
    return {part: _aligned(*found) for part, found in parts.items()}


def _aligned(source: Path, target: Path) -> PairPart:
    """Line i of one file translates line i of the other."""
    sides: Mapping[Path, list[str]] = {file: _lines(file) for file in (source, target)}
    counts = [len(lines) for lines in sides.values()]
    if len(sides) < 2:
        raise FieldguideError(f"{source} stands for source and target; give two files")
    if counts[0] != counts[1]:
        raise FieldguideError(
            f"{source} has {counts[0]} lines but {target} has {counts[1]}; line by line, one must translate the other"
        )
    for file, lines in sides.items():
        empty = [number for number, line in enumerate(lines, 1) if not line.strip()]
        if empty:
            more = f" and {len(empty) - 1} more" if len(empty) > 1 else ""
            raise FieldguideError(f"{file} line {empty[0]}{more} is empty; fill it, or remove it from both files")
    names = [f"{source.name} line {number}" for number in range(1, counts[0] + 1)]
    return PairPart(sides[source], sides[target], names)


def _lines(file: Path) -> list[str]:
    lines = read_document(file, in_lines=True).text.removesuffix("\n").split("\n")
    if lines == [""]:
        raise FieldguideError(f"{file} is empty; give a file with a text on each line")
    return lines
