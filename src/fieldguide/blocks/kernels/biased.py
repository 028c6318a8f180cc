"""Fused attention with scores added that are being learned, which PyTorch's own call computes step by step.

Method: forward by the fused call; backward a few batch rows at a time from the log-sum-exps, where the gradient of the
scores, dS = P ∘ (dO vᵀ − rowsum(dO ∘ O)) (Dao et al. 2022, appendix B.2), is the bias', summed over what shares it.
Cost: O(n²·d) time; O(h·n²) memory for the bias and its gradient, and a few rows of scores beside them.

Axes: b batch, h heads, g key/value heads, q queries, k keys, c head width.
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from fieldguide.blocks.kernels.fused import attend_forward, one_width
from fieldguide.shapes import Tensor

AT_ONCE = 2**19  # scores worked on at a time: few enough to stay in the caches


def biased(q: Tensor, k: Tensor, v: Tensor, added: Tensor, scale: float) -> Tensor:
    """Attention on a processor; ``added`` is (b|1, h|1, q, k), with −∞ where none may look, and gets its gradient."""
    return _Attend.apply(*one_width(q, k, v), added, scale)[..., : v.shape[-1]]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, added: Tensor, scale: float):
        out, lse = attend_forward(q, k, v, 0.0, False, attn_mask=added, scale=scale)
        ctx.save_for_backward(q, k, v, added, out, lse)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):
        q, k, v, added, out, lse = ctx.saved_tensors
        grads = [torch.zeros_like(x, dtype=lse.dtype) for x in (q, k, v, added)]
        shared = q.shape[1] // k.shape[1]
        size = max(1, AT_ONCE // (q.shape[1] * q.shape[2] * k.shape[2]))
        for rows in (slice(start, start + size) for start in range(0, len(q), size)):
            dq, dk, dv, dadded = (x[rows] if len(x) > 1 else x for x in grads)
            queries, here, y, seed = ((x[rows] if len(x) > 1 else x).to(lse.dtype) for x in (q, added, out, grad))
            keys, values = (x[rows].to(lse.dtype).repeat_interleave(shared, 1) for x in (k, v))
            scores = (queries @ keys.transpose(-2, -1)).mul_(ctx.scale).add_(here)
            weights = scores.sub_(lse[rows].unsqueeze(-1)).exp_()
            dv += (weights.transpose(-2, -1) @ seed).unflatten(1, (-1, shared)).sum(2)
            dscores = (seed @ values.transpose(-2, -1)).sub_((seed * y).sum(-1, keepdim=True)).mul_(weights)
            dadded += dscores.sum_to_size(dadded.shape)
            dq += (dscores @ keys).mul_(ctx.scale)
            dk += (dscores.transpose(-2, -1) @ queries).mul_(ctx.scale).unflatten(1, (-1, shared)).sum(2)
        return *(x.to(q.dtype) for x in grads), None
