"""A checkpoint that many processes write together: each its own file, and the leading one what says where all is.

::

    0008-step-000480/
      state-00001-of-00002.safetensors  state-00002-of-00002.safetensors
      state.json  layout.json  manifest.json

``state.json`` is that of one process; ``layout.json`` says for every tensor its dtype, its shape, the axis along which
it is cut, and which file holds which part. The folder has a temporary name until every process has reported size and
checksum of its file, already on the disk. So whoever dies, and whenever, leaves the older checkpoints the newest.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fieldguide.bounded import parse_json
from fieldguide.train.checkpoint.crew import Crew
from fieldguide.train.checkpoint.disk import write
from fieldguide.train.checkpoint.folder import VALUES, appearing, write_manifest
from fieldguide.train.checkpoint.image import SCHEMA, Image

__all__ = ["LAYOUT", "Layout", "files_of", "read_layouts", "shard_name", "write_shards"]

LAYOUT = "layout.json"
_SHARD = re.compile(r"state-\d{5,}-of-(\d{5,})\.safetensors")


@dataclass(frozen=True)
class Layout:
    """Where a tensor lies."""

    dtype: str
    """By its name in the safetensors format."""
    shape: tuple[int, ...]
    axis: int
    """Along which it is cut; a single number has none and is never cut."""
    parts: tuple[tuple[int, int, int], ...]
    """The number of a file, and the first entry and the count of those that it holds: all of them, in order."""

    def __post_init__(self) -> None:
        length, end = self.shape[self.axis] if self.shape else 1, 0
        for _, start, count in self.parts:
            if start != end or count < 0:
                raise ValueError("parts of a tensor overlap, or there is a gap between them")
            end += count
        if end != length or not self.parts:
            raise ValueError(f"parts of a tensor have {end} entries of {length}")


def shard_name(rank: int, size: int) -> str:
    """The file of one of ``size`` processes; its name counts from 1."""
    return f"state-{rank + 1:05d}-of-{size:05d}.safetensors"


def files_of(names: Iterable[str]) -> list[str]:
    """The tensor files, in their order, among the names of all files of such a checkpoint; none if it is none."""
    names = {*names}
    counts = {int(found[1]) for name in names if (found := _SHARD.fullmatch(name))}
    size = counts.pop() if len(counts) == 1 else 0
    shards = [shard_name(rank, size) for rank in range(min(size, len(names)))]
    return shards if names == {*shards, VALUES, LAYOUT} else []


def write_shards(choose: Callable[[], Path], image: Image, crew: Crew, *, step: int, best: bool) -> Path:
    """Write this process's part of a checkpoint, whose folder the leading one chooses; all do so at once.

    Raises:
        OSError: it could not be written, by this process or another; then nothing has changed.
        Unconfirmed: the leading process has seen that a power cut may still take it.
    """
    with ExitStack() as open_folder:

        def begin() -> str:
            folder = choose()
            return json.dumps([str(folder), str(open_folder.enter_context(appearing(folder)))])

        def finish() -> str:
            parts, files = zip(*map(json.loads, reports), strict=True)
            layouts = {name: asdict(layout) for name, layout in sorted(_joined(parts).items())}
            listed = {shard_name(rank, crew.size): file for rank, file in enumerate(files)}
            listed[VALUES] = write(temporary / VALUES, [image.json()])
            listed[LAYOUT] = write(temporary / LAYOUT, [json.dumps({"schema": SCHEMA, "tensors": layouts}).encode()])
            write_manifest(temporary, step, best, listed)
            open_folder.close()  # now it has its name
            return ""

        folder, temporary = map(Path, json.loads(crew.all(begin if crew.leads else str)[0]))
        shard = temporary / shard_name(crew.rank, crew.size)
        reports = crew.all(lambda: json.dumps([image.places, write(shard, image.safetensors())]))
        crew.all(finish if crew.leads else str)
    return folder


def read_layouts(raw: bytes) -> dict[str, Layout]:
    """The layouts in ``layout.json``; raises ValueError, TypeError, KeyError or IndexError for anything else."""
    content = parse_json(raw)
    if content.keys() != {"schema", "tensors"} or content["schema"] != SCHEMA:
        raise ValueError(f"schema is not {SCHEMA}")
    return {name: _layout(**entry) for name, entry in content["tensors"].items()}


def _layout(dtype: str, shape: list[int], axis: int, parts: list[list[int]]) -> Layout:
    numbers = [*shape, axis, *(number for part in parts for number in part)]
    if type(dtype) is not str or any(type(number) is not int or number < 0 for number in numbers):
        raise TypeError("a layout of other types")
    return Layout(dtype, tuple(shape), axis, tuple((file, start, count) for file, start, count in parts))


def _joined(places: Iterable[Mapping[str, Any]]) -> dict[str, Layout]:
    """What each process reports of its file, as layouts of whole tensors."""
    found: dict[str, dict[str, Any]] = {}
    for rank, own in enumerate(places):
        for name, (dtype, shape, axis, start, count) in own.items():
            whole = {"dtype": dtype, "shape": shape, "axis": axis}
            entry = found.setdefault(name, {**whole, "parts": []})
            if whole != {key: entry[key] for key in whole}:
                raise ValueError(f"rank {rank} has another {name} than the ranks before it")
            entry["parts"].append([rank + 1, start, count])
    return {name: _layout(**entry) for name, entry in found.items()}
