"""Compiled FlexAttention: on a GPU, any mask at the cost of the blocks in which it shows something.

Method: the mask and the bias become functions inside one generated kernel, which skips empty blocks of 128 × 128
pairs (Dong et al. 2024, "Flex Attention"). The block mask is kept for masks without data.
Cost: O(n²·density·d) time, O(n·d) memory. On a processor it has no backward pass, so ``attend`` picks it on GPUs only.
"""

from functools import lru_cache
from importlib import import_module
from typing import Any

import torch

from fieldguide.blocks.biases import Bias
from fieldguide.blocks.kernels import Case, Kernel
from fieldguide.blocks.masks import Full, Mask
from fieldguide.shapes import Tensor


class Flex(Kernel):
    name, cost = "flex", "O(n²·density·d)"

    def refusal(self, case: Case) -> str | None:
        if case.dropout:
            return "FlexAttention has no dropout"
        if case.dtype == torch.float64:
            return "FlexAttention has no float64"
        if case.device == "cpu" and case.gradients:
            return "FlexAttention has no backward pass on a processor"
        if case.device not in ("cpu", "cuda"):
            return f"FlexAttention has no kernel for {case.device}"
        return None

    def reason(self, case: Case) -> str:
        return f"on a GPU it skips the blocks in which {case.mask} shows nothing"

    def compute(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, bias: Bias | None, scale: float | None, dropout: float
    ) -> Tensor:
        q_len, k_len = q.shape[2], k.shape[2]
        if not torch.is_grad_enabled():
            q, k, v = q.detach(), k.detach(), v.detach()  # else it refuses on a processor, for what will not happen
        score_mod = None if bias is None else bias.score_mod(q_len, k_len)
        blocks = None if isinstance(mask, Full) else _blocks(mask, q_len, k_len, q.device)
        grouped = q.shape[1] != k.shape[1]
        return _compiled()(q, k, v, score_mod=score_mod, block_mask=blocks, scale=scale, enable_gqa=grouped)


@lru_cache(maxsize=1)
def _library() -> Any:
    return import_module("torch.nn.attention.flex_attention")  # on first use: it doubles the time to import torch


@lru_cache(maxsize=1)
def _compiled() -> Any:
    return torch.compile(_library().flex_attention, dynamic=False)


def _blocks(mask: Mask, q_len: int, k_len: int, device: torch.device) -> Any:
    held = "batch" in mask.depends_on
    return (_make_blocks if held else _kept_blocks)(mask, q_len, k_len, device)


def _make_blocks(mask: Mask, q_len: int, k_len: int, device: torch.device) -> Any:
    b, h = mask.extent
    return _library().create_block_mask(mask.mask_mod(q_len, k_len), b, h, q_len, k_len, device=device)


_kept_blocks = lru_cache(maxsize=64)(_make_blocks)

flex = Flex()
