"""The mathematics of attention: softmax, and three ways to pay less than n² for it.

A core turns queries, keys and values into outputs. All take ``core(q, k, v, mask, bias, scale, dropout)`` and refuse by
name what their mathematics cannot honour. ``core.weights(q, k, mask, bias, scale)`` is the matrix that maps v to the
same output: what the core attends to, for looking at, and quadratic in length whatever the core.

Axes: b batch, h query heads, g key/value heads, q/k query/key length, c head width, e value width, f features, s slots.
"""

import math
from abc import ABC, abstractmethod
from functools import partial, reduce
from operator import and_
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import nn

from fieldguide.blocks.attend import attend
from fieldguide.blocks.biases import Bias
from fieldguide.blocks.kernels import linear, linformer, performer
from fieldguide.blocks.kernels.linear import Features
from fieldguide.blocks.masks import And, Causal, Full, Mask, Padding
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Bool, Float, Tensor

ROWS = 256  # queries whose weights are computed at a time


class Core(nn.Module, ABC):
    """What ``Attention`` computes between its projections; see :meth:`forward` for the shapes."""

    honours: tuple[type[Mask], ...] = (Mask,)  # the masks whose meaning the core can keep, alone or joined by &
    why = ""  # and why no others
    drops = True  # whether it has weights of pairs, which dropout can drop

    @abstractmethod
    def forward(
        self,
        q: Float[Tensor, "b h q c"],
        k: Float[Tensor, "b g k c"],
        v: Float[Tensor, "b g k e"],
        mask: Mask = Full(),
        bias: Bias | None = None,
        scale: float | None = None,
        dropout: float = 0.0,
    ) -> Float[Tensor, "b h q e"]:
        """Outputs; zero for a query that may see nothing. Raises FieldguideError for what the core cannot honour."""

    @abstractmethod
    def weights(
        self,
        q: Float[Tensor, "b h q c"],
        k: Float[Tensor, "b g k c"],
        mask: Mask = Full(),
        bias: Bias | None = None,
        scale: float | None = None,
    ) -> Float[Tensor, "b h q k"]:
        """The matrix that multiplies v to give what ``forward`` gives without dropout."""

    def fit(self, head_dim: int) -> None:
        """Called by the Attention that takes the core, which may then make what depends on the head width."""

    def require(self, mask: Mask = Full(), bias: Bias | None = None, dropout: float = 0.0) -> None:
        """Raises FieldguideError for what the core cannot honour, whatever the input."""
        if bias is not None:
            self._refuse(f"bias={type(bias).__name__}")
        for part in _parts(mask):
            if not isinstance(part, self.honours):
                self._refuse(f"mask={part}")

    def _read(
        self, q: Tensor, k: Tensor, mask: Mask, bias: Bias | None, dropout: float = 0.0
    ) -> tuple[bool, Bool[Tensor, "#b 1 k 1"] | None]:
        """Whether the mask is causal and which keys are real, for a core that honours no more than that."""
        mask.check(q.shape[0], q.shape[2], k.shape[2])
        self.require(mask, bias, dropout)
        parts = _parts(mask)
        keeps = [part.keep[:, None, :, None] for part in parts if isinstance(part, Padding)]
        return any(isinstance(part, Causal) for part in parts), reduce(and_, keeps) if keeps else None

    def _refuse(self, what: str) -> NoReturn:
        raise FieldguideError(f"{type(self).__name__} attention cannot honour {what}: {self.why}; use core=Softmax()")


class Softmax(Core):
    """``softmax(scale · q kᵀ + bias) v`` over what the mask shows (Vaswani et al. 2017, eq. 1); see :func:`attend`."""

    def require(self, mask=Full(), bias=None, dropout=0.0):
        pass  # there is nothing that it cannot honour

    def forward(self, q, k, v, mask=Full(), bias=None, scale=None, dropout=0.0):
        return attend(q, k, v, mask, bias, scale, dropout)

    def weights(self, q, k, mask=Full(), bias=None, scale=None):
        return softmax_weights(q, k, mask, bias, scale)


class FeatureCore(Core):
    """Attention whose weights are products of features, summed key by key: O(n) in time and memory.

    Honours ``Full()``, ``Causal()`` and ``Padding(keep)``. Half precision computes in float32 and returns its own type.
    """

    honours = (Full, Causal, Padding)
    why = "it sums over keys without ever looking at a pair"
    drops = False

    @abstractmethod
    def features(self, k: Float[Tensor, "b g k c"], scale: float | None) -> tuple[Features, Features]:
        """φ for queries and φ for keys, to be given float32 or better; ``k`` are all keys."""

    def require(self, mask=Full(), bias=None, dropout=0.0):
        if dropout:
            self._refuse(f"dropout={dropout}")
        super().require(mask, bias)

    def forward(self, q, k, v, mask=Full(), bias=None, scale=None, dropout=0.0):
        causal, keep = self._read(q, k, mask, bias, dropout)
        compute = linear.causal if causal else linear.together
        with torch.autocast(q.device.type, enabled=False):  # long sums lose too much in half precision
            wide, k, values = _wide(q), _real(_wide(k), keep), _wide(v)
            return compute(wide, k, values, *self.features(k, scale), keep).to(v.dtype)

    def weights(self, q, k, mask=Full(), bias=None, scale=None):
        causal, keep = self._read(q, k, mask, bias)
        k = _real(_wide(k), keep)
        phi_q, phi_k = self.features(k, scale)
        weights = phi_q(_wide(q)) @ _as_many_heads(phi_k(k), q).transpose(-2, -1)
        weights = weights.tril(k.shape[2] - q.shape[2]) if causal else weights
        weights = weights if keep is None else weights * keep.transpose(-2, -1)
        return weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


class Linear(FeatureCore):
    """Linear attention with φ(x) = elu(x) + 1 (Katharopoulos et al. 2020, eq. 7), causal or not.

    The paper divides no score by √c, so ``scale`` is 1 unless given; it multiplies q before φ. Decoding needs no cache
    of keys: :meth:`step` carries a state of fixed size from token to token.
    """

    def features(self, k, scale):
        return partial(_elu_plus_one, scale=scale), _elu_plus_one

    def step(
        self,
        q: Float[Tensor, "b h n c"],
        k: Float[Tensor, "b g n c"],
        v: Float[Tensor, "b g n e"],
        state: Float[Tensor, "b h c e1"] | None = None,
        scale: float | None = None,
    ) -> tuple[Float[Tensor, "b h n e"], Float[Tensor, "b h c e1"]]:
        """Causal attention as a recurrence (eq. 16–20): the output of the next tokens and the state after them.

        The state, Σ φ(k) [v, 1]ᵀ, has the same size after the first token and the millionth; ``None`` starts anew.
        """
        if state is None:
            state = _wide(q).new_zeros(*q.shape[:2], k.shape[3], v.shape[3] + 1)
        out, state = linear.scan(_wide(q), _wide(k), _wide(v), *self.features(k, scale), state=state)
        return out.to(v.dtype), state


def _elu_plus_one(x: Tensor, scale: float | None = None) -> Tensor:
    return F.elu(x if scale is None else x * scale) + 1


class Performer(FeatureCore):
    """FAVOR+ estimates softmax attention with positive orthogonal random features (Choromanski et al. 2021, §2).

    ``features`` random directions (by default c·ln c for head width c) are a saved buffer, so a loaded model computes
    what the saved one did; :meth:`redraw` takes new ones, which the paper does now and then in training. The error
    falls with the number of features and grows fast with the size of the scores. Against the paper's code: no small
    number is added to the features, so causal attention sees nothing of the future and padding weighs nothing.
    """

    projection: Float[Tensor, "f c"]

    def __init__(self, features: int | None = None, *, head_dim: int | None = None):
        super().__init__()
        self.number = features
        self.register_buffer("projection", torch.empty(0, 0))
        if head_dim is not None:
            self.fit(head_dim)

    def fit(self, head_dim: int) -> None:
        if self.projection.numel():
            self._require_width(head_dim)
        else:
            self.number = self.number or max(1, int(head_dim * math.log(head_dim)))
            self.projection = self.projection.new_empty(self.number, head_dim)
            self.redraw()

    @torch.no_grad()
    def redraw(self) -> None:
        """Take new random directions from torch's generator."""
        self.projection.copy_(performer.orthogonal_gaussian(*self.projection.shape))

    def features(self, k, scale):
        self._require_width(k.shape[-1])
        scale = k.shape[-1] ** -0.5 if scale is None else scale
        drawn = {"projection": self.projection.to(k.dtype), "scale": scale}
        largest = performer.largest_exponent(k, **drawn)
        return (
            partial(performer.query_features, **drawn),
            partial(performer.key_features, **drawn, largest=largest),
        )

    def _require_width(self, width: int) -> None:
        if width != self.projection.shape[1]:
            raise FieldguideError(
                f"Performer: head width {width}, but the random features have width {self.projection.shape[1]}; "
                f"build it with head_dim={width}, or let Attention(core=…) do so"
            )

    def extra_repr(self) -> str:
        return f"features={self.number}"


class Projection(nn.Module):
    """Linformer's E (or F): weights from at most ``max_len`` tokens to ``slots`` (Wang et al. 2020, §4).

    The same module may serve keys and values, and any number of layers: sharing it shares the weights. All heads share
    it. Starts with variance 1/slots, as in the paper's Theorem 2.
    """

    def __init__(self, max_len: int, slots: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_len, slots).normal_(std=slots**-0.5))

    def forward(self, x: Float[Tensor, "b g k c"]) -> Float[Tensor, "b g s c"]:
        if x.shape[2] > len(self.weight):
            raise FieldguideError(
                f"Linformer: {x.shape[2]} tokens but its projection was built for max_len={len(self.weight)}; "
                f"shorten the input or build it with max_len={x.shape[2]}"
            )
        return linformer.project(x, self.weight)

    def extra_repr(self) -> str:
        return "max_len={}, slots={}".format(*self.weight.shape)


class Linformer(Core):
    """Softmax attention over a fixed number of slots, to which keys and values are projected (Wang et al. 2020, eq. 7).

    ``Linformer(E)`` shares one projection between keys and values, ``Linformer(E, F)`` does not; the same modules in
    every layer share across layers. Padding is zeroed before it is projected: a sequence padded on the right gives
    what the sequence alone gives. A slot mixes all tokens, so ``Causal()`` and other structure is refused. Where
    the projection of keys serves both, ``values`` is None.
    """

    honours = (Full, Padding)
    why = "its keys are mixtures of all tokens"

    def __init__(self, keys: Projection, values: Projection | None = None):
        super().__init__()
        self.keys, self.values = keys, values  # a module in two places would be stored twice

    def forward(self, q, k, v, mask=Full(), bias=None, scale=None, dropout=0.0):
        _, keep = self._read(q, k, mask, bias)
        values = self.values or self.keys
        return attend(q, self.keys(_real(k, keep)), values(_real(v, keep)), scale=scale, dropout=dropout)

    def weights(self, q, k, mask=Full(), bias=None, scale=None):
        _, keep = self._read(q, k, mask, bias)
        values = self.values or self.keys
        mixture = _real(values.weight[: k.shape[2]], keep).transpose(-2, -1)  # (…) s k: what each slot takes of v
        return softmax_weights(q, self.keys(_real(k, keep)), scale=scale) @ mixture


def softmax_weights(
    q: Float[Tensor, "b h q c"],
    k: Float[Tensor, "b g k c"],
    mask: Mask = Full(),
    bias: Bias | None = None,
    scale: float | None = None,
) -> Float[Tensor, "b h q k"]:
    """Every softmax weight, in float32 or better, some rows at a time; zeros for a query that may see nothing."""
    sizes = q.shape[2], k.shape[2]
    seen = mask.dense(*sizes, device=q.device)
    added = q.new_zeros(1, 1, sizes[0], 1) if bias is None else bias(*sizes, device=q.device)
    dtype = torch.promote_types(q.dtype, torch.float32)
    q = q.to(dtype) * (q.shape[-1] ** -0.5 if scale is None else scale)
    keys = _as_many_heads(k, q).to(dtype).transpose(-2, -1)
    weights = q.new_zeros(*q.shape[:3], sizes[1])
    for start in range(0, sizes[0], ROWS):
        rows = slice(start, start + ROWS)
        scores = q[:, :, rows] @ keys + added[:, :, rows]
        scores = scores.masked_fill(~seen[:, :, rows], -math.inf).softmax(-1)
        weights[:, :, rows] = scores.where(seen[:, :, rows].any(-1, keepdim=True), 0.0)
    return weights


def _parts(mask: Mask) -> tuple[Mask, ...]:
    return mask.terms if isinstance(mask, And) else (mask,)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _real(x: Tensor, keep: Tensor | None) -> Tensor:
    """Tokens that are padding become zero, so that nothing they hold can matter."""
    return x if keep is None else x.masked_fill(~keep, 0.0)


def _as_many_heads(x: Tensor, q: Tensor) -> Tensor:
    """Key/value heads (b, g, n, ·) repeated for the h query heads that share them."""
    return x.repeat_interleave(q.shape[1] // x.shape[1], 1) if x.shape[1] != q.shape[1] else x
