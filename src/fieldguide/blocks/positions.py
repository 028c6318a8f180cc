"""Where a token stands: learned, sinusoidal (1-D and 2-D) and rotary positions.

Absolute positions are modules from position indices to vectors, which the model adds to its tokens:
``x + self.positions(positions_of(x))``. Rotary positions turn queries and keys: ``Attention(positions=Rotary(c))``.
Relative positions that add to scores (ALiBi, T5, Swin) are biases, in ``biases.py``.

Axes: b batch, h heads, n tokens, d model width, c head width.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.shapes import Bool, Float, Int, Tensor


@runtime_checkable
class HasLength(Protocol):
    """A key-value cache, as far as positions care: how many tokens it has seen."""

    @property
    def length(self) -> int: ...


def positions_of(
    tokens: Tensor, keep: Bool[Tensor, "b total"] | None = None, cache: HasLength | None = None
) -> Int[Tensor, "*b n"]:
    """The position of each token of ``tokens`` (b, n, …): 0, 1, 2, … after what the cache has seen.

    With ``keep`` (real tokens among all so far, cached ones included) only real tokens count, so padding on the
    left moves nothing; padded places repeat the position before them. Result (n,) without ``keep``, else (b, n).
    """
    n = tokens.shape[1]
    if keep is not None:
        return (keep.cumsum(1) - 1).clamp_min(0)[:, -n:]
    start = cache.length if cache is not None else 0
    return torch.arange(start, start + n, device=tokens.device)


def sinusoidal(positions: Tensor, d_model: int, base: float = 10_000.0) -> Float[Tensor, "*n d"]:
    """Sines and cosines of positions, interleaved, in float64 (Vaswani et al. 2017, §3.5).

    ``PE(pos, 2i) = sin(pos / base^(2i/d))``, ``PE(pos, 2i+1) = cos(pos / base^(2i/d))``; positions may be fractions.
    """
    angles = _angles(positions, (d_model + 1) // 2, 2 / d_model, base)
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)[..., :d_model]


def _angles(positions: Tensor, count: int, step: float, base: float) -> Tensor:
    exponents = torch.arange(count, dtype=_exact(positions), device=positions.device) * step
    return positions.to(exponents)[..., None] * base**-exponents


def _exact(x: Tensor) -> torch.dtype:
    """float64: at position 10,000 the first angle has lost four digits in float32. Apple's devices have no float64."""
    return torch.float32 if x.device.type == "mps" else torch.float64


class Learned(nn.Embedding):
    """One trained vector per position, as in BERT, GPT and ViT (Gehring et al. 2017, §3.1).

    Positions (…, n) below ``max_len`` → vectors (…, n, d). ``offset`` more rows stand before position 0: the last of
    them is position −1, where RoBERTa puts padding. Raises FieldguideError for a sequence longer than the table.
    """

    def __init__(self, max_len: int, d_model: int, *, offset: int = 0):
        super().__init__(max_len + offset, d_model)
        self.max_len, self.offset = max_len, offset
        nn.init.normal_(self.weight, std=0.02)

    def require_room(self, length: int) -> None:
        if length > self.max_len:
            raise FieldguideError(
                f"Learned positions: {length} tokens but max_len={self.max_len}; "
                f"shorten the input or build the model with max_len={length}"
            )

    def forward(self, positions: Int[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
        self.require_room(positions.shape[-1])
        return super().forward(positions + self.offset if self.offset else positions)


class Sinusoidal(nn.Module):
    """Fixed sines and cosines, interleaved as in the paper (Vaswani et al. 2017, §3.5); any length, no parameters.

    Positions (…, n) → vectors (…, n, d), computed in float64 and returned in the module's type.
    """

    like: Tensor

    def __init__(self, d_model: int, *, base: float = 10_000.0):
        super().__init__()
        self.d_model, self.base = d_model, base
        # Holds no number: .to() and .double() move it, which is how a module without parameters knows its type.
        self.register_buffer("like", torch.empty(0), persistent=False)

    def forward(self, positions: Tensor) -> Float[Tensor, "*n d"]:
        return sinusoidal(positions, self.d_model, self.base).to(self.like)

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, base={self.base:g}"


class Sinusoidal2d(nn.Module):
    """Half of the features for the row, half for the column (Carion et al. 2020, appendix A.4; He et al. 2022).

    ``forward((rows, columns)) → (rows, columns, d)``. With ``keep`` (b, rows, columns), real pixels among padded ones,
    each image counts its own: ``(b, rows, columns, d)``. ``span=None`` counts patches from 0 as MAE does;
    ``span=2 * math.pi`` counts from 1 and stretches each axis to that span as DETR does. Each half interleaves sines
    and cosines (DETR's order); MAE holds the same numbers, columns before rows and all sines before all cosines.
    """

    like: Tensor

    def __init__(self, d_model: int, *, base: float = 10_000.0, span: float | None = None):
        super().__init__()
        if d_model % 4:
            raise FieldguideError(
                f"Sinusoidal2d: d_model={d_model} is not divisible by 4 (sine and cosine for each of two axes); "
                f"use {d_model - d_model % 4} or {d_model + 4 - d_model % 4}"
            )
        self.d_model, self.base, self.span = d_model, base, span
        self.register_buffer("like", torch.empty(0), persistent=False)  # as in Sinusoidal

    def forward(
        self, size: tuple[int, int], keep: Bool[Tensor, "b rows columns"] | None = None
    ) -> Float[Tensor, "*b rows columns d"]:
        real = torch.ones(size, dtype=torch.bool, device=self.like.device) if keep is None else keep
        axes = (self._count(real, -2), self._count(real, -1))
        return torch.cat([sinusoidal(axis, self.d_model // 2, self.base) for axis in axes], -1).to(self.like)

    def _count(self, real: Bool[Tensor, "*b rows columns"], dim: int) -> Float[Tensor, "*b rows columns"]:
        count = real.cumsum(dim).to(_exact(real))
        if self.span is None:
            return count - 1
        return count / (count.narrow(dim, -1, 1) + 1e-6) * self.span

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, base={self.base:g}, span={self.span}"


class Rotary(nn.Module):
    """Turns pairs of query and key features by an angle that grows with position (Su et al. 2021, §3.2.2, eq. 15).

    The score of two tokens then depends on their distance only. ``forward(q, k, start)`` with q (b, h, n, c) and
    k (b, kv heads, n, c), whose first token stands at position ``start``; pairs are neighbours (2i, 2i+1) as in the
    paper (GPT-NeoX pairs i with i + c/2: the same up to a permutation of the weights). ``rotated`` turns only the first
    so many features of each head (GPT-J, GPT-NeoX).
    """

    def __init__(self, head_dim: int, *, base: float = 10_000.0, rotated: int | None = None):
        super().__init__()
        self.head_dim, self.rotated, self.base = head_dim, head_dim if rotated is None else rotated, base
        if self.rotated % 2 or not 0 < self.rotated <= head_dim:
            raise FieldguideError(
                f"Rotary: {self.rotated} of head_dim={head_dim} features do not form pairs; choose an even number"
            )

    def forward(
        self, q: Float[Tensor, "b h n c"], k: Float[Tensor, "b g n c"], start: int = 0
    ) -> tuple[Float[Tensor, "b h n c"], Float[Tensor, "b g n c"]]:
        if q.shape[-1] != self.head_dim:
            raise FieldguideError(
                f"Rotary: heads of width {q.shape[-1]}, but it was made for head_dim={self.head_dim}; "
                f"make it Rotary({q.shape[-1]})"
            )
        positions = torch.arange(start, start + q.shape[2], device=q.device)
        angles = _angles(positions, self.rotated // 2, 2 / self.rotated, self.base)
        cos, sin = angles.cos().to(q.dtype), angles.sin().to(q.dtype)
        return self._turn(q, cos, sin), self._turn(k, cos, sin)

    def _turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        even, odd = x[..., : self.rotated : 2], x[..., 1 : self.rotated : 2]
        turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)
        return torch.cat((turned, x[..., self.rotated :]), -1)

    def extra_repr(self) -> str:
        return f"head_dim={self.head_dim}, rotated={self.rotated}, base={self.base:g}"
