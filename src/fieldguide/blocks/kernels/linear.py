"""Attention whose weight is a product of features, φ(q)·φ(k), so that keys and values can be summed first.

``out_i = φ(q_i) Σ_j φ(k_j) v_jᵀ / φ(q_i) Σ_j φ(k_j)`` over all j, or over j ≤ i (causal): Katharopoulos et al. 2020,
eq. 5 and 9–12. The sums are a state of fixed size, so time and memory are O(n·f·c), and decoding keeps nothing else.

Axes: b batch, h query heads, g key/value heads, q/k query/key length, n both, c value width, f features.
A state is Σ φ(k) [v, 1]ᵀ (b, h, f, c + 1): its last column sums the weights.
"""

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F

from fieldguide.shapes import Bool, Float, Tensor

Features = Callable[[Tensor], Tensor]  # (b, h, n, c) → (b, h, n, f), none negative

# Tokens worked on at once: what they need stays in the cache, and no large memory is asked for.
STRETCH = 1024
CHUNK = 128  # tokens within a stretch whose pairs are computed one by one


def together(
    q: Float[Tensor, "b h q c"],
    k: Float[Tensor, "b g k c"],
    v: Float[Tensor, "b g k e"],
    phi_q: Features,
    phi_k: Features,
    keep: Bool[Tensor, "#b 1 k 1"] | None = None,
) -> Float[Tensor, "b h q e"]:
    """Every query sees every key that is kept; zero where there is none."""
    state = _grouped(absorb(k, v, phi_k, keep), q)
    return torch.cat([_divide(phi_q(x) @ state) for x in stretches(q)], 2)


def absorb(
    k: Float[Tensor, "b g k c"],
    v: Float[Tensor, "b g k e"],
    phi_k: Features,
    keep: Bool[Tensor, "#b 1 k 1"] | None = None,
) -> Float[Tensor, "b g f e1"]:
    """The state after these keys and values; without any it is zero."""
    pieces = zip(stretches(k), stretches(v), stretches(keep), strict=False)
    return sum(phi_k(x).transpose(-2, -1) @ _weighted(y, z) for x, y, z in pieces)  # pyright: ignore[reportReturnType]


def causal(
    q: Float[Tensor, "b h q c"],
    k: Float[Tensor, "b g k c"],
    v: Float[Tensor, "b g k e"],
    phi_q: Features,
    phi_k: Features,
    keep: Bool[Tensor, "#b 1 k 1"] | None = None,
) -> Float[Tensor, "b h q e"]:
    """Query i sees kept keys up to its own position; the queries are the last q of the k positions."""
    early, past = max(q.shape[2] - k.shape[2], 0), max(k.shape[2] - q.shape[2], 0)
    old, new = (None, None) if keep is None else (keep[:, :, :past], keep[:, :, past:])
    state = absorb(k[:, :, :past], v[:, :, :past], phi_k, old)
    out, _ = scan(q[:, :, early:], k[:, :, past:], v[:, :, past:], phi_q, phi_k, new, state=_grouped(state, q))
    return F.pad(out, (0, 0, early, 0))  # queries before the first key see nothing


def scan(
    q: Float[Tensor, "b h n c"],
    k: Float[Tensor, "b g n c"],
    v: Float[Tensor, "b g n e"],
    phi_q: Features,
    phi_k: Features,
    keep: Bool[Tensor, "#b 1 n 1"] | None = None,
    *,
    state: Float[Tensor, "b h f e1"],
) -> tuple[Float[Tensor, "b h n e"], Float[Tensor, "b h f e1"]]:
    """Causal attention to n tokens and to all that ``state`` has absorbed before; also the state after them."""
    outputs = []
    for x, y, z, kept in zip(stretches(q), stretches(k), stretches(v), stretches(keep), strict=False):
        out, state = _stretch(phi_q(x), _grouped(phi_k(y), x), _grouped(_weighted(z, kept), x), state)
        outputs.append(out)
    return torch.cat(outputs, 2), state


def _stretch(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs within a chunk by a small score matrix, everything before it by a running sum over chunks."""
    n = q.shape[2]
    size = CHUNK if torch.compiler.is_compiling() else min(CHUNK, n)  # a compiled graph serves any length
    q, k, v = (F.pad(x, (0, 0, 0, -n % size)).unflatten(2, (-1, size)) for x in (q, k, v))
    states = torch.cat((state[:, :, None], k.transpose(-2, -1) @ v), 2).cumsum(2)  # before each chunk, and at the end
    out = q @ states[:, :, :-1] + (q @ k.transpose(-2, -1)).tril() @ v
    return _divide(out.flatten(2, 3)[:, :, :n]), states[:, :, -1]


def stretches(x: Any) -> Iterator[Any]:
    """The tokens (b, h, n, ·) in turns; for no tensor, None as often as it is asked for."""
    # A compiler sees the whole sequence: it plans memory itself, and a loop would fix the length.
    return repeat(None) if x is None else iter((x,) if torch.compiler.is_compiling() else x.split(STRETCH, 2))


def _weighted(v: Tensor, keep: Tensor | None) -> Tensor:
    """[v, 1], and zero where a token is padding: no value and no weight."""
    v = F.pad(v, (0, 1), value=1.0)
    return v if keep is None else v.masked_fill(~keep, 0.0)


def _grouped(x: Tensor, q: Tensor) -> Tensor:
    """Key/value heads repeated for the query heads that share them."""
    return x if x.shape[1] == q.shape[1] else x.repeat_interleave(q.shape[1] // x.shape[1], 1)


def _divide(sums: Tensor) -> Tensor:
    values, weights = sums[..., :-1], sums[..., -1:]
    return values / weights.where(weights > 0, 1.0)  # nothing seen: 0 / 1, with finite gradients
