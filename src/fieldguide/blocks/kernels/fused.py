"""Attention over tiles by the processor's fused call, on views: nothing is copied, only outputs are kept.

Method: ``scaled_dot_product_attention``'s own forward and backward kernels, group by group. Given the *merged* outputs
and log-sum-exps, the backward kernel yields each tile's exact share of the gradients (Liu et al. 2023, Ring Attention).
Cost: time of the pairs in tiles, memory of inputs and outputs.

Axes: b batch, h heads, n tokens, t tiles, q queries and k keys of a tile, c head width.
"""

from collections.abc import Iterator
from itertools import cycle, repeat
from math import inf
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from fieldguide.blocks.biases import Bias
from fieldguide.blocks.kernels.tiles import Part, Tiles
from fieldguide.blocks.masks import Mask
from fieldguide.shapes import Tensor

AT_ONCE = 2**21  # pairs whose visibility is worked out at a time, where batch rows differ in it

attend_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def fused(q: Tensor, k: Tensor, v: Tensor, parts: tuple[Part, ...], bias: Bias | None, scale: float) -> Tensor:
    """Attention of q (b, h, n, c) over the parts, which share no pair; ``bias`` gets no gradient."""
    return _Attend.apply(*one_width(q, k, v), parts, bias, scale)[..., : v.shape[-1]]


def one_width(*tensors: Tensor) -> list[Tensor]:
    """Queries, keys and values for the fused call: one head width (zeros change no score), dense last axis."""
    width = max(x.shape[-1] for x in tensors)
    wide = (x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1])) for x in tensors)
    return [x if x.stride(-1) == 1 else x.contiguous() for x in wide]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, parts: tuple[Part, ...], bias: Bias | None, scale: float):
        (b, h, n, c), merging = q.shape, len(parts) > 1
        full = torch.promote_types(q.dtype, torch.float32)
        out = q.new_zeros(b, n, h, c, dtype=full if merging else q.dtype).transpose(1, 2)
        lse = q.new_full((b, h, n, 1), -inf, dtype=full)
        for tiles, row, sight in _walk(q, k, parts, bias):
            y, total = attend_forward(
                tiles.queries.view(q[row], tiles.count),
                tiles.keys.view(k[row], tiles.count),
                tiles.keys.view(v[row], tiles.count),
                0.0,
                sight.causal,
                attn_mask=sight.added,
                scale=scale,
            )
            if sight.blind is not None:
                total = total.masked_fill(sight.blind, -inf)
            out_here, lse_here = (tiles.queries.view(x[row], tiles.count) for x in (out, lse))
            (_merge if merging else _put)(out_here, lse_here, y, total.unsqueeze(-1))
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, lse.masked_fill_(lse == -inf, 0.0))  # a blind row's weights: exp(−∞ − 0)
        ctx.parts, ctx.bias, ctx.scale = parts, bias, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor):
        q, k, v, out, lse = ctx.saved_tensors
        grad = grad if grad.stride(-1) == 1 else grad.contiguous()
        gradients = [torch.zeros_like(x) for x in (q, k, v)]
        for tiles, row, sight in _walk(q, k, ctx.parts, ctx.bias):
            shares = attend_backward(
                tiles.queries.view(grad[row], tiles.count),
                tiles.queries.view(q[row], tiles.count),
                tiles.keys.view(k[row], tiles.count),
                tiles.keys.view(v[row], tiles.count),
                tiles.queries.view(out[row], tiles.count),
                tiles.queries.view(lse[row], tiles.count).squeeze(-1),
                0.0,
                sight.causal,
                attn_mask=sight.added,
                scale=ctx.scale,
            )
            for side, whole, share in zip((tiles.queries, tiles.keys, tiles.keys), gradients, shares, strict=True):
                side.add(whole[row], share)
        return *gradients, None, None, None


def _put(out: Tensor, lse: Tensor, y: Tensor, total: Tensor) -> None:
    out.copy_(y)
    lse.copy_(total)


def _merge(out: Tensor, lse: Tensor, y: Tensor, total: Tensor) -> None:
    """Softmax over two sets of keys from the softmax over each."""
    merged = torch.logaddexp(lse, total)
    finite = merged.masked_fill(merged == -inf, 0.0)  # blind to both: weights exp(−∞ − 0) = 0
    out.mul_((lse - finite).exp()).add_(y * (total - finite).exp())
    lse.copy_(merged)


class Sight(NamedTuple):
    """What is seen in a group of tiles: all of it, a causal triangle, or where ``added`` is not −∞."""

    added: Tensor | None = None
    """(t|1, h|1, q, k)"""
    causal: bool = False
    blind: Tensor | None = None
    """Queries (t|1, h|1, q) that see nothing here, if any."""


def _walk(q: Tensor, k: Tensor, parts: tuple[Part, ...], bias: Bias | None) -> Iterator[tuple[Tiles, int, Sight]]:
    """Every group of tiles for every batch row, and what is seen there, worked out anew only where it can differ."""
    offset, rows = k.shape[2] - q.shape[2], torch.arange(q.shape[0])
    for part in parts:
        relative = part.mask.relative and (bias is None or bias.relative)
        by_row = "batch" in part.mask.depends_on or (bias is not None and bias.rows > 1)
        known: dict[object, Sight] = {}
        for tiles in part.groups():
            if by_row:
                some = rows.split(max(1, AT_ONCE // tiles.pairs))
                sights = (sight for chunk in some for sight in _see(tiles, part.mask, bias, q, chunk, offset))
            elif relative:
                if tiles.distances not in known:
                    (known[tiles.distances],) = _see(tiles.first, part.mask, bias, q, rows[:1], offset)
                sights = repeat(known[tiles.distances])
            else:
                sights = cycle(_see(tiles, part.mask, bias, q, rows[:1], offset))
            for row, sight in zip(range(len(rows)), sights, strict=False):
                yield tiles, row, sight


def _see(tiles: Tiles, mask: Mask, bias: Bias | None, q: Tensor, rows: Tensor, offset: int) -> list[Sight]:
    """What each of some batch rows sees."""
    b, h = rows.view(-1, 1, 1, 1, 1), torch.arange(q.shape[1]).view(-1, 1, 1)
    at = [side.unsqueeze(1) for side in tiles.positions(offset, q.device)]  # (t, 1, q, 1) and (t, 1, 1, k)
    shape = len(rows), 1, 1, tiles.queries.length, tiles.keys.length
    seen = mask.visible(b, h[: mask.extent[1]], *at)
    seen = seen.expand(torch.broadcast_shapes(seen.shape, shape))
    if bias is not None:
        added = bias.score(b, h[: bias.num_heads], *at).to(q.dtype)
        added = added.expand(torch.broadcast_shapes(added.shape, seen.shape))
    elif seen.all():
        return [Sight()] * len(rows)
    elif shape[3] == shape[4] and torch.equal(seen, seen.new_ones(1, 1, 1, *shape[3:]).tril()):
        return [Sight(causal=True)]
    else:
        added = torch.zeros((), dtype=q.dtype)
    added, blind = torch.where(seen, added, -inf), ~seen.any(-1)
    blind = blind if blind.any() else [None] * len(rows)
    return [Sight(a, blind=b) for a, b in zip(added, blind, strict=True)]
