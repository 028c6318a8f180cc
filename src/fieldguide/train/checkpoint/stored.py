"""Tensors in a checkpoint, read when they are asked for and as far as they are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fieldguide.train.checkpoint.disk import damaged, one_line
from fieldguide.train.checkpoint.shards import Layout
from fieldguide.train.checkpoint.tree import DTYPES, State

__all__ = ["File", "Stored", "read", "stored_in"]

_TORCH = {name: dtype for dtype, name in DTYPES.items()}
_PROBLEMS = (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError)


class File:
    """A safetensors file whose header is sound; its content is only mapped."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self._open = safe_open(path, "pt")
            self.layouts = {name: self._whole(name) for name in self._open.keys()}  # noqa: SIM118 (no mapping)
        except _PROBLEMS as error:
            raise damaged(path, f"not a safetensors file ({one_line(error)})") from error

    def read(self, name: str, box: tuple[slice, ...] = ()) -> Tensor:
        """What may lie on pages of the file: to be copied, as a run must not go on living on a file that it deletes."""
        try:
            return self._open.get_slice(name)[box] if box else self._open.get_tensor(name)
        except _PROBLEMS as error:
            raise damaged(self.path, one_line(error)) from error

    def _whole(self, name: str) -> Layout:
        entry = self._open.get_slice(name)
        shape = tuple(entry.get_shape())
        return Layout(entry.get_dtype(), shape, 0, ((1, 0, shape[0] if shape else 1),))


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor in the files of a checkpoint."""

    name: str
    layout: Layout
    files: tuple[File, ...]

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.layout.shape)

    def read(self, axis: int = 0, start: int = 0, stop: int | None = None) -> Tensor:
        """Its entries from ``start`` to ``stop`` along an axis, on the CPU; all of them by default.

        Raises:
            DamagedFile: the file, whose checksum was right, cannot be read.
        """
        cut, parts = self.layout.axis, self.layout.parts
        window = [slice(0, length) for length in self.shape]
        if window:
            window[axis] = slice(start, self.shape[axis] if stop is None else stop)
        if len(parts) == 1 and window == [slice(0, length) for length in self.shape]:
            return self.files[parts[0][0] - 1].read(self.name).clone()
        found = torch.empty([side.stop - side.start for side in window], dtype=_TORCH[self.layout.dtype])
        wanted = window[cut]
        for file, first, count in parts:
            low, high = max(first, wanted.start), min(first + count, wanted.stop)
            if low < high:
                window[cut] = slice(low - first, high - first)
                place = found.narrow(cut, low - wanted.start, high - low)
                place.copy_(self.files[file - 1].read(self.name, tuple(window)))
        return found


def stored_in(files: tuple[File, ...], layouts: dict[str, Layout]) -> dict[str, Stored]:
    """The tensors of a checkpoint; raises ValueError or IndexError where the files hold others than these."""
    expected: list[dict[str, tuple[str, tuple[int, ...]]]] = [{} for _ in files]
    for name, layout in layouts.items():
        for file, _, count in layout.parts:
            if not 0 < file <= len(files) or name in expected[file - 1]:
                raise ValueError(f"{name} lies nowhere, or twice in one file")
            shape = [*layout.shape]
            shape[layout.axis : layout.axis + 1] = [count] * bool(shape)
            expected[file - 1][name] = layout.dtype, tuple(shape)
    for file, tensors in zip(files, expected, strict=True):
        if tensors != {name: (layout.dtype, layout.shape) for name, layout in file.layouts.items()}:
            raise ValueError(f"{file.path.name} holds other tensors than it says")
    return {name: Stored(name, layout, files) for name, layout in layouts.items()}


def read(tree: State, change: Callable[[Stored], Any] = Stored.read) -> State:
    """The same tree with every tensor read; tied ones come back tied."""
    known: dict[int, Any] = {}

    def inner(value: State) -> State:
        match value:
            case Stored():
                if id(value) not in known:
                    known[id(value)] = change(value)
                return known[id(value)]
            case dict():
                return {key: inner(item) for key, item in value.items()}
            case list() | tuple():
                return type(value)(inner(item) for item in value)
        return value

    return inner(tree)
