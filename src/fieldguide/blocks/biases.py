"""What is added to scores: ALiBi, T5's relative buckets, Swin's table; biases add with ``+``.

A bias answers one question, :meth:`Bias.score`, elementwise on position indices like a mask does, so that a kernel
computes only the tile it needs and FlexAttention computes it inside its loop.

Axis letters: b batch, h heads, q query position, k key position. The q queries are the last q of the k positions.
"""

import math
from collections.abc import Callable
from functools import reduce
from operator import add

import torch
from torch import nn

from fieldguide.blocks.masks import Mask
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Size, Tensor

__all__ = ["ALiBi", "Bias", "RelativeBuckets", "RelativeTable", "Scores", "Sum"]


class Bias(nn.Module):
    """An added score; ``a + b`` adds both. To add a kind, subclass and write ``score``."""

    relative: bool = False
    """Whether the score depends on ``q − k`` alone, so that one tile serves every place of a sequence."""

    num_heads: int
    """The heads it tells apart; 1 when all heads share it."""

    def score(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """The score added where query ``q`` meets key ``k``, broadcast from the four index tensors."""
        raise NotImplementedError

    @property
    def rows(self) -> int:
        """How many batch rows it tells apart; 1 for all but given scores."""
        return 1

    @property
    def learned(self) -> bool:
        """Whether it takes part in training, so that a kernel must give it a gradient."""
        return any(parameter.requires_grad for parameter in self.parameters())

    def check(self, batch: Size, heads: int, q_len: int, k_len: int) -> None:
        """Raise ``FieldguideError`` when the bias is made for other sizes."""
        if self.num_heads not in (1, heads):
            raise FieldguideError(
                f"{type(self).__name__}: a bias for {self.num_heads} heads does not fit {heads} heads"
            )

    def forward(self, q_len: int, k_len: int, *, device: torch.device | str | None = None) -> Float[Tensor, "b h q k"]:
        """The scores as a tensor for the last ``q_len`` of ``k_len`` positions."""
        b = torch.arange(self.rows, device=device).view(-1, 1, 1, 1)
        h = torch.arange(self.num_heads, device=device).view(-1, 1, 1)
        if self.relative:  # one score for each distance, laid out along the diagonals
            distances = torch.arange(1 - q_len, k_len, device=device)
            line = self.score(b, h, distances, torch.zeros_like(distances)).expand(1, self.num_heads, 1, -1)
            return line.squeeze(2).unfold(-1, k_len, 1).flip(-1)
        queries = torch.arange(k_len - q_len, k_len, device=device).view(-1, 1)
        scores = self.score(b, h, queries, torch.arange(k_len, device=device))
        return scores.expand(self.rows, self.num_heads, q_len, k_len)

    def score_mod(self, q_len: int, k_len: int) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The plain five-argument function that FlexAttention asks for; there, queries count from 0."""
        offset = k_len - q_len

        def score_mod(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return score + self.score(b, h, q + offset, k)

        return score_mod

    def __add__(self, other: "Bias") -> "Sum":
        if not isinstance(other, Bias):
            what = "a mask combines with & | ~" if isinstance(other, Mask) else "wrap a tensor of scores in Scores(…)"
            raise FieldguideError(f"a bias adds to biases only, not to {type(other).__name__}; {what}")
        return Sum(self, other)


class Sum(Bias):
    """Several biases, added."""

    def __init__(self, *terms: Bias):
        super().__init__()
        flat: list[Bias] = [part for term in terms for part in (term.summands if isinstance(term, Sum) else [term])]
        self.terms = nn.ModuleList(flat)
        self.num_heads = max(term.num_heads for term in flat)
        self.relative = all(term.relative for term in flat)

    @property
    def summands(self) -> list[Bias]:
        return list(self.terms)  # pyright: ignore[reportReturnType]

    @property
    def rows(self) -> int:
        return max(term.rows for term in self.summands)

    @property
    def learned(self) -> bool:
        return any(term.learned for term in self.summands)

    def check(self, batch: Size, heads: int, q_len: int, k_len: int) -> None:
        for term in self.summands:
            term.check(batch, heads, q_len, k_len)

    def score(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return reduce(add, (term.score(b, h, q, k) for term in self.summands))


class Scores(Bias):
    """Given scores, (b|1, h|1, q, k), for the q queries and k keys at hand."""

    def __init__(self, scores: Float[Tensor, "b h q k"]):
        super().__init__()
        if not isinstance(scores, Tensor) or scores.ndim != 4 or not scores.is_floating_point():
            raise FieldguideError(
                "Scores: scores are floating-point numbers (b|1, h|1, q, k); who may attend is a mask"
            )
        self.scores = scores
        self.num_heads = scores.shape[1]

    @property
    def rows(self) -> int:
        return self.scores.shape[0]

    @property
    def learned(self) -> bool:
        return self.scores.requires_grad

    def check(self, batch: Size, heads: int, q_len: int, k_len: int) -> None:
        super().check(batch, heads, q_len, k_len)
        if self.rows not in (1, batch) or tuple(self.scores.shape[2:]) != (q_len, k_len):
            raise FieldguideError(
                f"Scores: {tuple(self.scores.shape)} does not fit a batch of {batch}, {q_len} queries and {k_len} keys"
            )

    def score(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        rows, heads, q_len, k_len = self.scores.shape
        return self.scores[b if rows > 1 else b * 0, h if heads > 1 else h * 0, q - (k_len - q_len), k]


class ALiBi(Bias):
    """−slope · |q − k| with slopes 2^(−8/h), 2^(−16/h), … (Press et al. 2022, §3).

    For a number of heads that is no power of two the slopes between are interleaved, as in the authors' code. The
    paper is causal; with two-sided masks the distance counts on both sides.
    """

    relative = True

    def __init__(self, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        whole = 2 ** math.floor(math.log2(num_heads))
        slopes = [2 ** (-8 * (i + 1) / whole) for i in range(whole)]
        slopes += [2 ** (-4 * (2 * i + 1) / whole) for i in range(num_heads - whole)]
        self.slopes: Tensor
        self.register_buffer("slopes", torch.tensor(slopes), persistent=False)

    def score(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return -self.slopes[h] * (q - k).abs()

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}"


class RelativeBuckets(Bias):
    """T5's learned score per head and bucket of ``k − q`` (Raffel et al. 2020, §2.1; buckets as in the authors' code).

    Half the buckets hold one distance each, the others grow logarithmically up to ``max_distance``. Two-sided
    (encoder) buckets spend half of them on each side; one-sided (decoder) buckets put all future keys in bucket 0.
    """

    relative = True

    def __init__(self, num_heads: int, *, num_buckets: int = 32, max_distance: int = 128, two_sided: bool = True):
        super().__init__()
        self.num_heads = num_heads
        self.num_buckets, self.max_distance, self.two_sided = num_buckets, max_distance, two_sided
        self.table = nn.Embedding(num_buckets, num_heads)

    def bucket(self, distance: Tensor) -> Tensor:
        """The bucket of each ``k − q``."""
        sides = 2 if self.two_sided else 1
        buckets = self.num_buckets // sides
        exact = buckets // 2
        size = distance.abs() if self.two_sided else (-distance).clamp(min=0)
        ratio = torch.log(size.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        wide = (exact + (ratio * (buckets - exact)).long()).clamp(max=buckets - 1)
        side = (distance > 0).long() * buckets * (sides - 1)
        return side + torch.where(size < exact, size, wide)

    def score(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return self.table.weight[self.bucket(k - q), h]

    def extra_repr(self) -> str:
        return f"max_distance={self.max_distance}, two_sided={self.two_sided}"


class RelativeTable(Bias):
    """Swin's learned score per head and 2-D offset within a window of ``size`` (Liu et al. 2021, eq. 4).

    Positions count the window row by row; the table has (2·rows − 1) · (2·columns − 1) entries.
    """

    def __init__(self, num_heads: int, size: tuple[int, int]):
        super().__init__()
        self.num_heads = num_heads
        self.size = size
        rows, columns = size
        self.table = nn.Parameter(torch.empty((2 * rows - 1) * (2 * columns - 1), num_heads))
        nn.init.trunc_normal_(self.table, std=0.02)

    def check(self, batch: Size, heads: int, q_len: int, k_len: int) -> None:
        super().check(batch, heads, q_len, k_len)
        rows, columns = self.size
        if not q_len == k_len == rows * columns:
            raise FieldguideError(
                f"RelativeTable: a window of {rows}×{columns} has {rows * columns} positions, "
                f"not {q_len} queries and {k_len} keys"
            )

    def score(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        rows, columns = self.size
        down = q // columns - k // columns + rows - 1
        right = q % columns - k % columns + columns - 1
        return self.table[down * (2 * columns - 1) + right, h]

    def extra_repr(self) -> str:
        return f"num_heads={self.num_heads}, size={self.size}"
