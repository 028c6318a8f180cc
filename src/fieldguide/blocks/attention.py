"""Multi-head attention: projections × mask × bias × core × positions × cache (Vaswani et al. 2017, §3.2).

Axes: b batch, n tokens, m memory tokens, d model width, h query heads, g key/value heads, c head width.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from math import inf

from torch import Tensor, nn

from fieldguide.blocks.attend import attend, explain
from fieldguide.blocks.biases import Bias
from fieldguide.blocks.cache import Cache, Later
from fieldguide.blocks.cores import Core, Softmax
from fieldguide.blocks.masks import And, Band, Full, Mask, Not, Or, not_a_mask
from fieldguide.blocks.positions import Rotary
from fieldguide.errors import FieldguideError, unknown
from fieldguide.shapes import Float

__all__ = ["Attention", "attend", "explain"]

PROJECTIONS = ("query", "key", "value", "output")


class Attention(nn.Module):
    """Attention of tokens to each other, or to ``memory`` (cross-attention) when ``forward`` is given one.

    Choices are values: ``mask`` (structure, shown by ``print(model)``), ``bias`` (added to scores), ``core`` (the
    mathematics; softmax unless given), ``positions`` (rotary), ``qk_norm`` (builds a norm for the head width, once for
    queries and once for keys; Henry et al. 2020) and ``biased`` (the projections that add a bias: all in BERT, none in
    T5, only the output in GPT-Neo). ``head_dim`` need not be d_model / num_heads; fewer ``num_kv_heads`` share keys and
    values among heads (Ainslie et al. 2023); ``scale`` replaces 1/√head_dim (1.0 in T5 and GPT-Neo).

    Raises FieldguideError for sizes that do not fit, a data-carrying mask, or what the core cannot honour.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        num_kv_heads: int | None = None,
        memory_dim: int | None = None,
        mask: Mask = Full(),
        bias: Bias | None = None,
        core: Core | None = None,
        positions: Rotary | None = None,
        qk_norm: Callable[[int], nn.Module] = nn.Identity,
        scale: float | None = None,
        dropout: float = 0.0,
        biased: Sequence[str] = PROJECTIONS,
    ):
        super().__init__()
        self.d_model, self.memory_dim, self.num_heads = d_model, memory_dim or d_model, num_heads
        self.num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        _refuse_sizes(d_model, num_heads, head_dim, self.num_kv_heads)
        _refuse_names(biased)
        require_structure(mask)
        self.head_dim = head_dim or d_model // num_heads
        self.mask, self.bias, self.scale, self.dropout = mask, bias, scale, dropout

        width, kv_width = num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.query = nn.Linear(d_model, width, bias="query" in biased)
        self.key = nn.Linear(self.memory_dim, kv_width, bias="key" in biased)
        self.value = nn.Linear(self.memory_dim, kv_width, bias="value" in biased)
        self.output = nn.Linear(width, d_model, bias="output" in biased)
        self.query_norm, self.key_norm = qk_norm(self.head_dim), qk_norm(self.head_dim)
        self.positions = positions
        self.core = core or Softmax()
        self.core.fit(self.head_dim)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        memory: Float[Tensor, "b m e"] | None = None,
        *,
        mask: Mask = Full(),
        bias: Bias | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Tokens (b, n, d) → (b, n, d); ``mask``, such as ``Padding(keep)`` over all keys, narrows the module's own.

        ``bias`` is added to the module's own: one that all layers of a stack share belongs to the stack.
        """
        self._check(x, memory)
        cache = cache or Cache()
        if memory is None:
            q, k, v = self._queries_keys_values(x)
            q, k = self.positions(q, k, cache.seen(self)) if self.positions else (q, k)
            seen = cache.extend(self, k, v)
        else:
            q = self._queries(x)
            seen = cache.recall(self, memory, self._keys_values)
        mask = Later.of(self.mask & mask, seen.dropped)
        bias = self.bias + bias if self.bias is not None and bias is not None else self.bias or bias
        dropout = self.dropout if self.training else 0.0
        y = self.core(q, seen.keys, seen.values, mask=mask, bias=bias, scale=self.scale, dropout=dropout)
        return self.output(y.transpose(1, 2).flatten(2))

    def reach(self) -> float:
        """How far before a query keys still matter: ever, unless a mask has a window and a bias counts distances."""
        if self.bias is not None and not self.bias.relative:
            return inf
        highs = (region.high if isinstance(region, Band) else inf for region in self.mask.cover())
        return float(max(highs, default=0))

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._queries(x), *self._keys_values(x)

    def _queries(self, x: Tensor) -> Tensor:
        return self.query_norm(self._heads(self.query(x)))

    def _keys_values(self, source: Tensor) -> tuple[Tensor, Tensor]:
        return self.key_norm(self._heads(self.key(source))), self._heads(self.value(source))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _check(self, x: Tensor, memory: Tensor | None) -> None:
        source = x if memory is None else memory
        for given, name, width in ((x, "d_model", self.d_model), (source, "memory_dim", self.memory_dim)):
            if given.shape[-1] != width:
                raise FieldguideError(
                    f"Attention: input of shape {tuple(given.shape)} has width {given.shape[-1]}, but {name}={width}; "
                    f"build it with {name}={given.shape[-1]} or project the input first"
                )
        if memory is not None and self.positions is not None:
            raise FieldguideError(
                f"Attention: {self.positions} compares positions within one sequence, but memory is another; "
                "leave positions out of a cross-attention"
            )

    def extra_repr(self) -> str:
        heads = f"num_heads={self.num_heads}, head_dim={self.head_dim}"
        shared = f", num_kv_heads={self.num_kv_heads}" if self.num_kv_heads != self.num_heads else ""
        scale = f", scale={self.scale}" if self.scale is not None else ""
        return f"{heads}{shared}, mask={self.mask}{scale}, dropout={self.dropout}"


def _refuse_sizes(d_model: int, num_heads: int, head_dim: int | None, num_kv_heads: int) -> None:
    if min(d_model, num_heads) < 1:
        raise FieldguideError(f"Attention: d_model={d_model} and num_heads={num_heads}; both must be at least 1")
    if head_dim is None and d_model % num_heads:
        raise FieldguideError(
            f"Attention: d_model={d_model} does not divide into num_heads={num_heads} heads; "
            f"choose d_model={d_model - d_model % num_heads or num_heads}, another num_heads, or give head_dim"
        )
    if num_kv_heads < 1 or num_heads % num_kv_heads:
        raise FieldguideError(
            f"Attention: num_heads={num_heads} heads cannot share num_kv_heads={num_kv_heads} evenly; "
            f"choose a divisor of {num_heads}"
        )


def _refuse_names(biased: Sequence[str]) -> None:
    for name in biased:
        if name not in PROJECTIONS:
            raise unknown("projection", name, PROJECTIONS)


def require_structure(mask: Mask) -> None:
    """Refuses the data of one batch in a mask, which must not stay in a module and meet the next one."""
    if not isinstance(mask, Mask):
        raise not_a_mask(mask)
    match mask:
        case And(terms) | Or(terms):
            for term in terms:
                require_structure(term)
        case Not(inner):
            require_structure(inner)
        case _ if any(isinstance(getattr(mask, field.name), Tensor) for field in fields(mask)):
            raise FieldguideError(
                f"Attention: {mask} holds the data of one batch; give it to forward(x, mask=…), not to the module"
            )
