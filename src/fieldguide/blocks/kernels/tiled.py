"""Exact attention over parts of the score matrix: what the banded, chunked, strided and hubs kernels have in common.

Method: a mask's cover names a few regions; each becomes a part made of tiles, and a query's outputs from several
parts are merged by their log-sum-exps, as FlashAttention merges its blocks (Dao et al. 2022, §3.1).
Cost: time of the pairs in tiles; memory of inputs, outputs and one group of tiles (with ``stepwise``: of all pairs).
"""

from abc import abstractmethod
from functools import lru_cache
from math import sqrt

import torch

from fieldguide.blocks.biases import Bias
from fieldguide.blocks.kernels import Case, Kernel
from fieldguide.blocks.kernels.fused import fused
from fieldguide.blocks.kernels.stepwise import stepwise
from fieldguide.blocks.kernels.tiles import Part, Tiles
from fieldguide.blocks.masks import FULL, And, Band, Causal, Dilated, Mask, Or, Window
from fieldguide.shapes import Tensor


class Tiled(Kernel):
    """A kernel that walks the regions of a mask's cover tile by tile."""

    bounds: str
    """The regions it knows, in words."""

    @abstractmethod
    def tiles(self, region: Mask, q_len: int, k_len: int) -> tuple[Tiles, ...] | None:
        """Disjoint tiles that hold the region's pairs; None for a region this kernel does not know."""

    def parts(self, mask: Mask, q_len: int, k_len: int) -> tuple[Part, ...]:
        """The mask as parts, one for each region; a pair in two regions belongs to the first. None at all: refused."""
        regions = sorted(mask.cover(), key=lambda region: -getattr(region, "step", 0))
        parts: list[Part] = []
        rest = mask
        for region in regions:
            tiles = self.tiles(region, q_len, k_len)
            if tiles is None:
                return ()
            parts.append(Part(_inside(rest, region) & region if len(regions) > 1 else mask, tiles))
            rest = rest & ~region
        return tuple(part for part in parts if part.tiles)

    def refusal(self, case: Case) -> str | None:
        return None if self._parts(case) else f"{case.mask} is not bounded by {self.bounds}"

    def pairs(self, case: Case) -> int:
        return sum(part.pairs for part in self._parts(case))

    def compute(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, bias: Bias | None, scale: float | None, dropout: float
    ) -> Tensor:
        case = Case.of(q, k, mask, bias, dropout)
        return attend_parts(case, q, k, v, self._parts(case), bias, scale, dropout)

    def _parts(self, case: Case) -> tuple[Part, ...]:
        remember = not ("batch" in case.mask.depends_on or torch.compiler.is_compiling())
        return (_remembered_parts if remember else type(self).parts)(self, case.mask, case.q_len, case.k_len)


@lru_cache(maxsize=512)
def _remembered_parts(kernel: Tiled, mask: Mask, q_len: int, k_len: int) -> tuple[Part, ...]:
    return kernel.parts(mask, q_len, k_len)


def attend_parts(
    case: Case,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    parts: tuple[Part, ...],
    bias: Bias | None,
    scale: float | None,
    dropout: float,
) -> Tensor:
    """Attention over the parts: fused where the fused call can do it, else step by step."""
    scale = 1 / sqrt(q.shape[-1]) if scale is None else scale
    if can_fuse(case):
        return fused(q, k, v, parts, bias, scale)
    return stepwise(q, k, v, parts, bias, scale, dropout)


def can_fuse(case: Case) -> bool:
    """The fused call is the processor's; it has no dropout, no gradient for a bias, and is not traced."""
    return case.device == "cpu" and not (case.dropout or case.learned or torch.compiler.is_compiling())


def _inside(mask: Mask, region: Mask) -> Mask:
    """A simpler mask that agrees with ``mask`` within the region: a band that holds all of it says nothing there."""
    match mask:
        case And(terms):
            return And.of(*(_inside(term, region) for term in terms))
        case Or(terms):
            return Or.of(*(_inside(term, region) for term in terms))
        case Causal() | Window() | Dilated() | Band() if isinstance(region, Band):
            return FULL if all(isinstance(band, Band) and band.holds(region) for band in mask.cover()) else mask
    return mask
