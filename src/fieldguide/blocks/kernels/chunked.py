"""Attention within chunks of equal size: ``Chunked(512)``, also with ``Causal()`` or data beside it.

Method: each chunk is a sequence of its own (block-local attention; Qiu et al. 2020).
Cost: O(n·s·d) time for chunks of s, O(n·d) memory.
"""

from fieldguide.blocks.kernels import Case
from fieldguide.blocks.kernels.tiled import Tiled
from fieldguide.blocks.kernels.tiles import Part, Side, Tiles
from fieldguide.blocks.masks import And, Chunked, Mask

ROWS = 512  # larger chunks go through in rows of so many queries


class Chunks(Tiled):
    bounds = "chunks"
    name, cost = "chunked", "O(n·s·d)"

    def reason(self, case: Case) -> str:
        return f"{case.mask} keeps every query within its chunk"

    def tiles(self, region: Mask, q_len: int, k_len: int) -> tuple[Tiles, ...] | None:
        return chunk_tiles(region.size, q_len, k_len) if isinstance(region, Chunked) else None

    def parts(self, mask: Mask, q_len: int, k_len: int) -> tuple[Part, ...]:
        terms = mask.terms if isinstance(mask, And) else (mask,)
        chunks = min((term for term in terms if isinstance(term, Chunked)), key=lambda term: term.size, default=None)
        if chunks is None:
            return ()
        within = And.of(*(term for term in terms if term is not chunks))  # what the tiles do not say already
        tiles = chunk_tiles(chunks.size, q_len, k_len)
        return (Part(within, tiles),) if tiles else ()


def chunk_tiles(size: int, q_len: int, k_len: int) -> tuple[Tiles, ...]:
    """Tiles of the chunks: all whole ones at once, and what is left of a chunk at either end."""
    offset = k_len - q_len
    first = -(-max(offset, 0) // size) * size  # the first chunk whose queries are all here
    count = max(0, (k_len - first) // size)
    cuts = [(max(offset, 0), min(first, k_len))] if first > offset else []
    cuts += [(first + count * size, k_len)] if first + count * size < k_len else []
    tiles = [
        Tiles(Side(row - offset, min(ROWS, stop - row)), Side(start // size * size, stop - start // size * size))
        for start, stop in cuts
        for row in range(start, stop, ROWS)
    ]
    if count:
        tiles += [
            Tiles(Side(first - offset + row, min(ROWS, size - row), size), Side(first, size, size), count)
            for row in range(0, size, ROWS)
        ]
    return tuple(tiles)


chunked = Chunks()
