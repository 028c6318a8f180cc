"""A list of labelled image files, checked as a whole before anything is trained on it."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch

from fieldguide.data.decode import BadImage, decode, read_bytes, read_header, read_image
from fieldguide.data.images import Found, class_names, encode
from fieldguide.data.pixels import MEMORY_LIMIT, WORKERS, InMemory, OnDisk, moments_of
from fieldguide.data.resize import ChooseSize, natural_size
from fieldguide.data.splits import Split
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Int, Tensor, UInt8

_Read = TypeVar("_Read")
_LISTED = 10
"""Bad files that an error names; the rest are counted."""

PART_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""What sources call their parts, and what they are called here."""


class Row(NamedTuple):
    part: str
    label: str
    file: str
    """Relative to the listing's folder."""


@dataclass(frozen=True)
class Listing:
    """Which file belongs to which class and part."""

    source: Path
    """The folder or the CSV, as errors call it."""
    folder: Path
    """What the rows' paths are relative to."""
    rows: Sequence[Row]

    @property
    def name(self) -> str:
        return self.source.resolve().name if self.source == self.folder else self.source.stem


def read_listing(
    listing: Listing,
    *,
    classes: Sequence[str] | None = None,
    choose_size: ChooseSize = natural_size,
    channels: int | None = None,
    on_bad_file: Literal["stop", "skip"] = "stop",
    memory_limit: int = MEMORY_LIMIT,
) -> Found:
    """Reads every file once: headers for the common size and channels, then pixels.

    Pixels stay in memory while all parts together take at most ``memory_limit`` bytes; otherwise each batch is decoded
    when it is needed, with the same bytes. Files that cannot be read raise one ``FieldguideError`` that lists them
    with reasons, or are left out with ``on_bad_file="skip"``.
    """
    bad: dict[str, str] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        headers = _sift(pool, read_header, listing.folder, listing.rows, bad)
        if not headers:
            raise _unreadable(bad, listing)
        channels = channels or _common_channels({row.file: header.channels for row, header in headers}, listing)
        size = choose_size({header.size for _, header in headers})
        in_memory = len(headers) * channels * size[0] * size[1] <= memory_limit
        study = partial(_study, channels=channels, size=size, keep=in_memory)
        studied = _sift(pool, study, listing.folder, [row for row, _ in headers], bad)
    if (bad and on_bad_file != "skip") or not studied:
        raise _unreadable(bad, listing)

    parts = sorted({row.part for row, _ in studied})
    learned = "train" if "train" in parts else parts[0]
    classes = tuple(classes or class_names([row.label for row, _ in studied if row.part == learned]))
    splits, content = {}, {}
    for part in parts:
        rows, facts = zip(*((row, fact) for row, fact in studied if row.part == part), strict=True)
        names = [row.file for row in rows]
        labels = encode(np.array([row.label for row in rows]), classes, f"{listing.source}: {part}", names)
        if in_memory:
            pixels = InMemory(torch.stack([fact.image for fact in facts]))
        else:
            paths = [str(listing.folder / name) for name in names]
            sums, squares = torch.cat([fact.sums for fact in facts]), torch.cat([fact.squares for fact in facts])
            pixels = OnDisk(paths, partial(read_image, channels=channels, size=size), (channels, *size), sums, squares)
        splits[part] = Split(pixels, labels, names, classes)
        content[part] = sha256(b"".join(fact.digest for fact in facts)).digest()
    return Found(listing.name, splits, content, tuple(bad))


class _Facts(NamedTuple):
    """What one file contributes: its bytes' digest, its pixels if they are kept, and their moments."""

    digest: bytes
    image: UInt8[Tensor, "c h w"] | None
    sums: Int[Tensor, "1 c"]
    squares: Int[Tensor, "1 c"]


def _study(path: Path, *, channels: int, size: tuple[int, int], keep: bool) -> _Facts:
    content = read_bytes(path)
    image = decode(content, channels, size)
    return _Facts(sha256(content).digest(), image if keep else None, *moments_of(image.unsqueeze(0)))


def _sift(
    pool: ThreadPoolExecutor, read: Callable[[Path], _Read], folder: Path, rows: Sequence[Row], bad: dict[str, str]
) -> list[tuple[Row, _Read]]:
    """What ``read`` gives for each row; a row it refuses is noted in ``bad`` with the reason."""

    def attempt(row: Row) -> tuple[Row, _Read] | BadImage:
        try:
            return row, read(folder / row.file)
        except BadImage as error:
            return error

    good = []
    for row, result in zip(rows, pool.map(attempt, rows), strict=True):
        if isinstance(result, BadImage):
            bad[row.file] = str(result)
        else:
            good.append(result)
    return good


def _common_channels(channels: Mapping[str, int], listing: Listing) -> int:
    example = {count: file for file, count in channels.items()}
    if len(example) > 1:
        raise FieldguideError(
            f"{listing.source} mixes grey ({example[1]}) and colour ({example[3]}) images; "
            "choose channels=1 or channels=3 to convert them all"
        )
    return next(iter(example))


def _unreadable(bad: Mapping[str, str], listing: Listing) -> FieldguideError:
    named = ", ".join(f"{file} ({reason})" for file, reason in list(bad.items())[:_LISTED])
    more = f" and {len(bad) - _LISTED} more" if len(bad) > _LISTED else ""
    return FieldguideError(
        f"{len(bad)} of {len(listing.rows)} images of {listing.source} cannot be read: {named}{more}; "
        'mend or remove them, or leave them out with on_bad_file="skip" (--on-bad-file skip)'
    )
