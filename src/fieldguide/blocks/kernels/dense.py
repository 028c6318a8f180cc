"""The fallback that can do everything: fused attention with the mask and the bias as one tensor.

Method: ``scaled_dot_product_attention`` with ``attn_mask``. On a processor, long sequences go through it some rows at a
time, with the keys that the mask's band leaves them, so that a causal mask stops at the diagonal.
Cost: O(n²·d) time; O(n²) memory for the tensor, O(n·d) where rows are taken in turn.
"""

from math import inf, sqrt

import torch

from fieldguide.blocks.biases import Bias
from fieldguide.blocks.kernels import TROUBLE, Case, Kernel
from fieldguide.blocks.kernels.banded import cut_tiles
from fieldguide.blocks.kernels.biased import biased
from fieldguide.blocks.kernels.sdpa import fused_attention
from fieldguide.blocks.kernels.tiled import attend_parts, can_fuse
from fieldguide.blocks.kernels.tiles import Part
from fieldguide.blocks.masks import Band, Full, Mask
from fieldguide.shapes import Tensor

LONG = 2**20  # pairs from which rows are taken in turn


class Dense(Kernel):
    name, cost = "dense", "O(n²·d)"

    def refusal(self, case: Case) -> str | None:
        return None

    def reason(self, case: Case) -> str:
        if case.pairs < TROUBLE:
            return "with so few pairs no other kernel pays"
        added = " with an added bias" if case.bias else ""
        return f"no cheaper kernel computes {case.mask}{added} exactly"

    def pairs(self, case: Case) -> int:
        if not self._in_turn(case):
            return case.pairs
        return self._part(case).pairs

    def compute(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, bias: Bias | None, scale: float | None, dropout: float
    ) -> Tensor:
        case = Case.of(q, k, mask, bias, dropout)
        if self._in_turn(case):
            return attend_parts(case, q, k, v, (self._part(case),), bias, scale, dropout)
        if bias is None:
            return fused_attention(q, k, v, mask.dense(case.q_len, case.k_len, device=q.device), scale, dropout)
        added = bias(case.q_len, case.k_len, device=q.device).to(q.dtype)
        if not isinstance(mask, Full):
            added = added.masked_fill(~mask.dense(case.q_len, case.k_len, device=q.device), -inf)
        if case.device == "cpu" and case.learned and not (case.dropout or torch.compiler.is_compiling()):
            return biased(q, k, v, added, 1 / sqrt(q.shape[-1]) if scale is None else scale)
        return fused_attention(q, k, v, added, scale, dropout)

    @staticmethod
    def _in_turn(case: Case) -> bool:
        return case.pairs >= LONG and can_fuse(case)

    @staticmethod
    def _part(case: Case) -> Part:
        match case.mask.cover():
            case (Band(low, high, _),):
                return Part(case.mask, cut_tiles(low, high, case.q_len, case.k_len, 0, case.q_len))
        return Part(case.mask, cut_tiles(-inf, inf, case.q_len, case.k_len, 0, case.q_len))


dense = Dense()
