"""PyTorch's fused attention, for masks that need no n × n tensor: none, causal, or a row of visible keys.

Method and source: FlashAttention (Dao et al. 2022), as ``torch.nn.functional.scaled_dot_product_attention``.
Cost: O(n²·d) time, O(n·d) memory; causal half of the time.
"""

import torch
import torch.nn.functional as F

from fieldguide.blocks.biases import Bias
from fieldguide.blocks.kernels import Case, Kernel
from fieldguide.blocks.masks import Causal, Full, Mask
from fieldguide.shapes import Tensor


class SDPA(Kernel):
    name, cost = "sdpa", "O(n²·d)"

    def refusal(self, case: Case) -> str | None:
        if case.bias:
            return "it adds no bias"
        if isinstance(case.mask, Causal):
            return None if case.q_len in (1, case.k_len) else "its causal mask wants as many queries as keys"
        return None if case.mask.depends_on <= {"batch", "key"} else f"{case.mask} needs a tensor of queries × keys"

    def reason(self, case: Case) -> str:
        return f"{case.mask} needs no tensor of queries × keys"

    def pairs(self, case: Case) -> int:
        return case.pairs // (2 if isinstance(case.mask, Causal) and case.q_len > 1 else 1)

    def compute(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Mask, bias: Bias | None, scale: float | None, dropout: float
    ) -> Tensor:
        q_len, k_len = q.shape[2], k.shape[2]
        causal = isinstance(mask, Causal) and q_len == k_len
        seen = None if isinstance(mask, Causal | Full) else mask.dense(1, k_len, device=q.device)
        return fused_attention(q, k, v, seen, scale, dropout, causal=causal)


def one_in_16_bits(q: Tensor) -> bool:
    """One query on a processor: 32 bits are twice as fast as the 16-bit kernel, whose tiles are made for many."""
    return q.shape[2] == 1 and q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16)


def fused_attention(
    q: Tensor, k: Tensor, v: Tensor, added: Tensor | None, scale: float | None, dropout: float, *, causal: bool = False
) -> Tensor:
    """The call itself, for any number of key/value heads and a value width of its own."""
    if one_in_16_bits(q):
        added = added.float() if added is not None and added.is_floating_point() else added
        return fused_attention(q.float(), k.float(), v.float(), added, scale, dropout, causal=causal).to(v.dtype)
    grouped, width = q.shape[1] != k.shape[1], v.shape[-1]
    if width < q.shape[-1]:  # one head width is what the fused kernels know; zeros change nothing
        v = F.pad(v, (0, q.shape[-1] - width))
    out = F.scaled_dot_product_attention(q, k, v, added, dropout, causal, scale=scale, enable_gqa=grouped)
    return out[..., :width] if out.shape[-1] != width else out


sdpa = SDPA()
