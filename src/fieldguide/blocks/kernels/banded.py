"""Attention within a band of distances: any mask that a window bounds, such as ``Causal() & Window(256)``.

Method: blocks of queries against the stretch of keys that they reach, so neighbouring blocks overlap in keys
(sliding-window attention; Beltagy et al. 2020, §3.1; blocks as in Child et al. 2019, §5.3). The rest of the mask –
``Documents``, ``Padding``, ``Dilated`` – is applied inside each block.
Cost: O(n·w·d) time, O(n·d) memory, forward and backward.
"""

from math import inf

from fieldguide.blocks.kernels import Case
from fieldguide.blocks.kernels.tiled import Tiled
from fieldguide.blocks.kernels.tiles import Side, Tiles
from fieldguide.blocks.masks import Band, Mask

LONG = 256  # rows of a block that is not one of many


class Banded(Tiled):
    bounds = "a window"
    name, cost = "banded", "O(n·w·d)"

    def reason(self, case: Case) -> str:
        return f"{case.mask} reaches only keys near the query"

    def tiles(self, region: Mask, q_len: int, k_len: int) -> tuple[Tiles, ...] | None:
        if isinstance(region, Band) and region.width < inf and region.step == 1:
            return band_tiles(int(region.low), int(region.high), q_len, k_len)
        return None


def band_tiles(low: int | float, high: int | float, q_len: int, k_len: int) -> tuple[Tiles, ...]:
    """Tiles of the distances ``low ≤ q − k ≤ high``: equal blocks where nothing is cut off, and what is at the ends."""
    if high - low == inf:
        return cut_tiles(low, high, q_len, k_len, 0, q_len)
    low, high, offset = int(low), int(high), k_len - q_len
    rows = block_rows(high - low + 1)
    start = max(0, high - offset)
    count = max(0, (min(q_len, q_len + low) - start) // rows)
    if count == 0:
        return cut_tiles(low, high, q_len, k_len, 0, q_len)
    stop = start + count * rows
    whole = Tiles(Side(start, rows, rows), Side(start + offset - high, rows + high - low, rows), count)
    return *cut_tiles(low, high, q_len, k_len, 0, start), whole, *cut_tiles(low, high, q_len, k_len, stop, q_len)


def block_rows(width: int) -> int:
    """Rows of a block: few waste few pairs outside the band, many use the cores well; measured on two cores."""
    return 64 if width <= 320 else 128


def cut_tiles(low: int | float, high: int | float, q_len: int, k_len: int, start: int, stop: int) -> tuple[Tiles, ...]:
    """Single tiles for the queries in [start, stop), each with the keys that exist among those it reaches."""
    offset = k_len - q_len
    tiles: list[Tiles] = []
    for first in range(start, stop, LONG):
        rows = min(LONG, stop - first)
        begin = max(0, first + offset - high)
        end = min(k_len, first + rows + offset - low)
        if begin < end:
            tiles.append(Tiles(Side(first, rows), Side(int(begin), int(end - begin))))
    return tuple(tiles)


banded = Banded()
