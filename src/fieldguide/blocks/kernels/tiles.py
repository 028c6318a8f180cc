"""Rectangles of the n × n score matrix, as views of queries and keys: what the sparse kernels compute instead of it.

Axes: t tiles, h heads, n tokens, q queries and k keys of a tile, c head width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch

from fieldguide.blocks.masks import Mask
from fieldguide.shapes import Tensor

GROUP = 1024  # queries worked on at a time: enough to fill the cores, few enough to stay in their caches


class Side(NamedTuple):
    """Where tiles lie along one axis: tile t holds ``start + t·hop + i·step`` for i < ``length``."""

    start: int
    length: int
    hop: int = 0
    step: int = 1

    def positions(self, count: int, device: torch.device) -> Tensor:
        """Positions (t, length) of ``count`` tiles."""
        tiles = torch.arange(count, device=device).view(-1, 1) * self.hop
        return self.start + tiles + torch.arange(self.length, device=device) * self.step

    def view(self, x: Tensor, count: int) -> Tensor:
        """The tiles of x (h, n, c) as a view (t, h, length, c); they may overlap."""
        h, n, c = x.stride()
        shape = count, x.shape[0], self.length, x.shape[2]
        return x.as_strided(shape, (self.hop * n, h, self.step * n, c), x.storage_offset() + self.start * n)

    def add(self, x: Tensor, tiles: Tensor) -> None:
        """Adds (t, h, length, c) to x (h, n, c) where the tiles lie; where they overlap, by stretches of ``hop``."""
        stretch = self.hop // self.step or self.length
        for i in range(0, self.length, stretch):
            piece = Side(self.start + i * self.step, min(stretch, self.length - i), self.hop, self.step)
            piece.view(x, len(tiles)).add_(tiles[:, :, i : i + stretch])


@dataclass(frozen=True)
class Tiles:
    """``count`` rectangles of one size; where there are several, both sides hop alike."""

    queries: Side
    keys: Side
    count: int = 1

    @property
    def pairs(self) -> int:
        return self.count * self.queries.length * self.keys.length

    @property
    def first(self) -> "Tiles":
        return Tiles(self.queries, self.keys)

    @property
    def distances(self) -> tuple[int, ...]:
        """What the distances between queries and keys of every tile follow from."""
        return self.queries.start - self.keys.start, *self.queries[1:], *self.keys[1:]

    def positions(self, offset: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Positions of queries (t, q, 1) and keys (t, 1, k) when the first query is at ``offset``."""
        queries, keys = (side.positions(self.count, device) for side in (self.queries, self.keys))
        return queries.unsqueeze(2) + offset, keys.unsqueeze(1)

    def groups(self) -> Iterator["Tiles"]:
        """The same tiles, about ``GROUP`` queries at a time."""
        size = max(1, GROUP // self.queries.length)
        for start in range(0, self.count, size):
            queries, keys = (side._replace(start=side.start + start * side.hop) for side in (self.queries, self.keys))
            yield Tiles(queries, keys, min(size, self.count - start))


@dataclass(frozen=True)
class Part:
    """Visible pairs, and disjoint tiles that hold them all."""

    mask: Mask
    tiles: tuple[Tiles, ...]

    @property
    def pairs(self) -> int:
        return sum(tiles.pairs for tiles in self.tiles)

    def groups(self) -> Iterator[Tiles]:
        for tiles in self.tiles:
            yield from tiles.groups()
