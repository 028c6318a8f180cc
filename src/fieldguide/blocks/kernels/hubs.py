"""Attention with hubs – keys that all see, queries that see all – beside a band: ``Window(w) | Global([0])``.

Method: the band, the hubs' columns and the hubs' rows are three parts, merged exactly (Longformer; Beltagy et al. 2020,
§3.1; attention sinks, ``Causal() & (Window(w) | Prefix(4))``; Xiao et al. 2024).
Cost: O(n·(w + g)·d) time for g hubs, O(n·d) memory.
"""

from fieldguide.blocks.kernels import Case
from fieldguide.blocks.kernels.strided import Strided
from fieldguide.blocks.kernels.tiles import Side, Tiles
from fieldguide.blocks.masks import Keys, Mask, Queries

AREA = 2**20  # pairs whose visibility is worked out at a time


class Hubs(Strided):
    bounds = "a window, a stride or a few positions"
    name, cost = "hubs", "O(n·(w + g)·d)"

    def reason(self, case: Case) -> str:
        return f"{case.mask} reaches a few positions from everywhere, and others only near the query"

    def tiles(self, region: Mask, q_len: int, k_len: int) -> tuple[Tiles, ...] | None:
        match region:
            case Keys(runs):
                clipped = ((start, min(stop, k_len)) for start, stop in runs)
                return tuple(tile for start, stop in clipped for tile in _rows(0, q_len, start, stop))
            case Queries(runs):
                offset = k_len - q_len
                clipped = ((max(start - offset, 0), min(stop - offset, q_len)) for start, stop in runs)
                return tuple(tile for start, stop in clipped for tile in _rows(start, stop, 0, k_len))
        return super().tiles(region, q_len, k_len)


def _rows(q_start: int, q_stop: int, k_start: int, k_stop: int) -> list[Tiles]:
    keys = Side(k_start, k_stop - k_start)
    if keys.length <= 0:
        return []
    rows = max(64, AREA // keys.length)
    return [Tiles(Side(q, min(rows, q_stop - q)), keys) for q in range(q_start, q_stop, rows)]


hubs = Hubs()
