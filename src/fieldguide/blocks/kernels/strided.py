"""Attention to every s-th key, alone or with a band: ``Strided(s)``, ``Causal() & Strided(s)``, dilated windows.

Method: positions that are equal modulo s attend among themselves, as short sequences of n/s tokens; the local band is
a second part, and the two are merged exactly (Sparse Transformer; Child et al. 2019, §4.2).
Cost: O(n²/s·d + n·s·d) time, which is O(n·√n·d) for s near √n; O(n·d) memory.
"""

from itertools import pairwise
from math import ceil, floor, inf

from fieldguide.blocks.kernels import Case
from fieldguide.blocks.kernels.banded import Banded, band_tiles
from fieldguide.blocks.kernels.tiles import Side, Tiles
from fieldguide.blocks.masks import Band, Mask


class Strided(Banded):
    bounds = "a window or a stride"
    name, cost = "strided", "O(n·√n·d)"

    def reason(self, case: Case) -> str:
        return f"{case.mask} reaches every s-th key, and others only near the query"

    def tiles(self, region: Mask, q_len: int, k_len: int) -> tuple[Tiles, ...] | None:
        if isinstance(region, Band) and region.step > 1:
            return comb_tiles(region, q_len, k_len)
        return super().tiles(region, q_len, k_len)


def comb_tiles(region: Band, q_len: int, k_len: int) -> tuple[Tiles, ...]:
    """Tiles of the distances in the band that are multiples of its step: a band within each class of residues."""
    step, offset = region.step, k_len - q_len
    low = region.low if region.low == -inf else ceil(region.low / step)
    high = region.high if region.high == inf else floor(region.high / step)
    tiles: list[Tiles] = []
    cuts = sorted({0, offset % step, k_len % step, step})  # between two cuts all classes have equally many positions
    for residue, stop in pairwise(cuts):
        first = (residue - offset) % step
        queries, keys = len(range(first, q_len, step)), len(range(residue, k_len, step))
        for tile in band_tiles(low, high, queries, keys):
            tiles += [
                Tiles(
                    _spread(tile.queries, block, first, step), _spread(tile.keys, block, residue, step), stop - residue
                )
                for block in range(tile.count)
            ]
    return tuple(tiles)


def _spread(side: Side, block: int, first: int, step: int) -> Side:
    """The same block in every class: class t starts at ``first + t``, and its neighbours are ``step`` apart."""
    return Side(first + (side.start + block * side.hop) * step, side.length, 1, step)


strided = Strided()
