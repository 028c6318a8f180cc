"""Attention over tiles in plain steps: any device, dropout, learned biases, ``torch.compile``, ``torch.export``.

Method: scores of all tiles, one maximum and one sum for each query over its tiles, weighted values.
Cost: time and memory of the pairs in tiles, in float32 or better.

Axes: b batch, h heads, g key/value heads, r = h/g, n tokens, t tiles, q queries and k keys of a tile, c head width.
"""

from math import inf

import torch
import torch.nn.functional as F

from fieldguide.blocks.biases import Bias
from fieldguide.blocks.kernels.tiles import Part
from fieldguide.shapes import Tensor


def stepwise(
    q: Tensor, k: Tensor, v: Tensor, parts: tuple[Part, ...], bias: Bias | None, scale: float, dropout: float
) -> Tensor:
    """Attention of q (b, h, n, c) over the parts, which share no pair."""
    (b, h, n, _), g, device, dtype = q.shape, k.shape[1], q.device, v.dtype
    full = torch.promote_types(q.dtype, torch.float32)
    q, k, v = q.to(full).unflatten(1, (g, h // g)) * scale, k.to(full).unsqueeze(2), v.to(full).unsqueeze(2)
    batch, heads = torch.arange(b, device=device).view(-1, 1, 1, 1, 1), torch.arange(h, device=device).view(-1, 1, 1, 1)

    pieces: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in parts:
        rows, some_heads = part.mask.extent
        for tiles in part.tiles:
            at = tiles.positions(k.shape[3] - n, device)
            q_index, k_index = (side.positions(tiles.count, device) for side in (tiles.queries, tiles.keys))
            scores = q[..., q_index, :] @ k[..., k_index, :].transpose(-2, -1)  # b g r t q k
            if bias is not None:
                score = bias.score(batch[: bias.rows], heads[: bias.num_heads], *at)
                scores = scores + _grouped(score.to(full), g)
            seen = part.mask.visible(batch[:rows], heads[:some_heads], *at)
            pieces.append((scores.masked_fill(~_grouped(seen, g), -inf), q_index, k_index))

    best = q.new_full(q.shape[:-1], torch.finfo(full).min)  # finite: a blind query's weights are exp(−∞ − best) = 0
    for scores, q_index, _ in pieces:
        here = torch.maximum(best[..., q_index], scores.detach().amax(-1))
        best = best.index_copy(3, q_index.flatten(), here.flatten(3))
    total, out = torch.zeros_like(best), q.new_zeros(*best.shape, v.shape[-1])
    for scores, q_index, k_index in pieces:
        weights = (scores - best[..., q_index].unsqueeze(-1)).exp()
        values = F.dropout(weights, dropout) @ v[..., k_index, :]
        total = total.index_add(3, q_index.flatten(), weights.sum(-1).flatten(3))
        out = out.index_add(3, q_index.flatten(), values.flatten(3, 4))
    return (out / total.where(total > 0, 1.0).unsqueeze(-1)).flatten(1, 2).to(dtype)


def _grouped(x: Tensor, g: int) -> Tensor:
    """(b|1, h|1, t, q, k), or fewer axes, → (b|1, g|1, r|1, t, q, k)."""
    x = x.expand(torch.broadcast_shapes(x.shape, (1, 1, 1, 1, 1)))
    return x.unsqueeze(2) if x.shape[1] == 1 else x.unflatten(1, (g, -1))
