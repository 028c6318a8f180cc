"""Where images lie: in memory, in memory at another size, or on disk. The same indices give the same bytes.

Legend: b batch, n images, c channels, h height, w width.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch

from fieldguide.data.resize import resize
from fieldguide.shapes import Int, Tensor, UInt8

MEMORY_LIMIT = 2 << 30
"""Bytes of uint8 images that are kept in memory; larger sets are decoded or resized batch by batch."""

WORKERS = min(16, os.cpu_count() or 1)
"""Threads that decode image files; Pillow decodes outside the interpreter lock."""


@runtime_checkable
class Pixels(Protocol):
    """A sequence of equally large uint8 images."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of every image."""
        ...

    def read(self, indices: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]: ...

    def take(self, indices: Int[Tensor, " b"]) -> "Pixels": ...

    def moments(self) -> tuple[Int[Tensor, "n c"], Int[Tensor, "n c"]]:
        """Sum and sum of squares of each image's channels: integers, so every storage agrees to the bit."""
        ...


def moments_of(images: UInt8[Tensor, "n c h w"]) -> tuple[Int[Tensor, "n c"], Int[Tensor, "n c"]]:
    wide = images.flatten(2).to(torch.int32)
    return wide.sum(2), wide.square().sum(2)


@dataclass(frozen=True, eq=False)
class InMemory:
    images: UInt8[Tensor, "n c h w"]

    @property
    def shape(self) -> tuple[int, int, int]:
        c, h, w = self.images.shape[1:]
        return c, h, w

    def read(self, indices: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        return self.images.index_select(0, indices)

    def take(self, indices: Int[Tensor, " b"]) -> "InMemory":
        return InMemory(self.read(indices))

    def moments(self) -> tuple[Int[Tensor, "n c"], Int[Tensor, "n c"]]:
        return _chunked_moments(self, len(self.images))


@dataclass(frozen=True, eq=False)
class Resized:
    """Images in memory that would not fit there at their new size."""

    images: UInt8[Tensor, "n c h w"]
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.images.shape[1], *self.size

    def read(self, indices: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        return resize(self.images.index_select(0, indices), self.size)

    def take(self, indices: Int[Tensor, " b"]) -> "Resized":
        return Resized(self.images.index_select(0, indices), self.size)

    def moments(self) -> tuple[Int[Tensor, "n c"], Int[Tensor, "n c"]]:
        return _chunked_moments(self, len(self.images))


@dataclass(frozen=True, eq=False)
class OnDisk:
    """Image files, decoded on demand by a pool of threads."""

    files: Sequence[str]
    decode: Callable[[str], UInt8[Tensor, "c h w"]]
    shape: tuple[int, int, int]
    sums: Int[Tensor, "n c"]
    squares: Int[Tensor, "n c"]

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(WORKERS, thread_name_prefix="decode")

    def read(self, indices: Int[Tensor, " b"]) -> UInt8[Tensor, "b c h w"]:
        return torch.stack(list(self._pool.map(self.decode, [self.files[i] for i in indices.tolist()])))

    def take(self, indices: Int[Tensor, " b"]) -> "OnDisk":
        order: list[int] = indices.tolist()
        files = [self.files[i] for i in order]
        return OnDisk(files, self.decode, self.shape, self.sums[indices], self.squares[indices])

    def moments(self) -> tuple[Int[Tensor, "n c"], Int[Tensor, "n c"]]:
        return self.sums, self.squares


def at_size(images: UInt8[Tensor, "n c h w"], size: tuple[int, int], limit: int = MEMORY_LIMIT) -> InMemory | Resized:
    """Images of a size: resized once when the result fits into ``limit`` bytes, otherwise batch by batch."""
    if images.shape[:2].numel() * size[0] * size[1] > limit and tuple(images.shape[2:]) != size:
        return Resized(images, size)
    return InMemory(resize(images, size))


def _chunked_moments(pixels: Pixels, count: int, step: int = 1024) -> tuple[Int[Tensor, "n c"], Int[Tensor, "n c"]]:
    pieces = [moments_of(pixels.read(torch.arange(i, min(i + step, count)))) for i in range(0, count, step)]
    sums, squares = zip(*pieces, strict=True)
    return torch.cat(sums), torch.cat(squares)
