"""``attend``: softmax attention over what a mask shows – the only place that picks a kernel.

Axes: b batch, h query heads, g key/value heads, q queries, k keys, c head width, e value width.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F

from fieldguide.blocks.biases import Bias
from fieldguide.blocks.kernels import TROUBLE, Case, Kernel
from fieldguide.blocks.kernels.banded import banded
from fieldguide.blocks.kernels.chunked import chunked
from fieldguide.blocks.kernels.dense import dense
from fieldguide.blocks.kernels.flex import flex
from fieldguide.blocks.kernels.hubs import hubs
from fieldguide.blocks.kernels.sdpa import one_in_16_bits, sdpa
from fieldguide.blocks.kernels.strided import strided
from fieldguide.blocks.masks import And, Band, Causal, Full, Mask, Window, not_a_mask
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor

LARGE = 2**20  # pairs from which a GPU gains by skipping blocks
UNBOUNDED = Band()
SPECIAL: tuple[Kernel, ...] = (chunked, banded, strided, hubs)  # each does what those before it do, and more


def attend(
    q: Float[Tensor, "b h q c"],
    k: Float[Tensor, "b g k c"],
    v: Float[Tensor, "b g k e"],
    mask: Mask = Full(),
    bias: Bias | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "b h q e"]:
    """softmax(scale · q kᵀ + bias) v over the keys that ``mask`` shows (Vaswani et al. 2017, eq. 1).

    The queries are the last q of the k positions. ``scale`` is 1/√c unless given; ``dropout`` is the probability that
    a weight is dropped. Fewer key/value heads than query heads are shared (Ainslie et al. 2023). A query that may see
    nothing returns zeros, with zero gradients. Raises FieldguideError for what is no mask and sizes that do not fit.
    """
    if bias is None and k.shape == v.shape and _same_but_length(q, k) and not one_in_16_bits(q):  # nothing to pick
        kind = type(mask)
        if kind is Full:
            return F.scaled_dot_product_attention(q, k, v, None, dropout, scale=scale)
        if kind is Causal and ((square := q.shape[2] == k.shape[2]) or q.shape[2] == 1):
            return F.scaled_dot_product_attention(q, k, v, None, dropout, square, scale=scale)
    _check(q, k, v, mask, bias)
    q, k, v = _autocast(q, k, v)
    if q.shape[2] == 1:
        mask = _as_one_sees_it(mask, k.shape[2])
        if bias is not None and k.shape[2] < TROUBLE:  # what would be chosen, without the choosing
            return dense.compute(q, k, v, mask, bias, scale, dropout)
    return choose(Case.of(q, k, mask, bias, dropout)).compute(q, k, v, mask, bias, scale, dropout)


def _same_but_length(q: Tensor, k: Tensor) -> bool:
    """Quick where lengths agree too; a traced graph must not depend on whether they happen to."""
    if not torch.compiler.is_compiling() and q.shape == k.shape:
        return True
    return q.shape[:2] == k.shape[:2] and q.shape[3:] == k.shape[3:]


def _as_one_sees_it(mask: Mask, k_len: int) -> Mask:
    """The same for the last query alone: nothing stands after it, and a wide enough window holds everything."""
    match mask:
        case Causal():
            return Full()
        case Window(size) if size >= k_len:
            return Full()
        case And(terms):
            return And.of(*(_as_one_sees_it(term, k_len) for term in terms))
    return mask


def choose(case: Case) -> Kernel:
    """The kernel for a case; a special one must save half of the score matrix to be worth its trouble."""
    compiling = torch.compiler.is_compiling()
    if compiling or "batch" in case.mask.depends_on:
        return _choose(case, compiling)
    return _remembered_choice(case, compiling)


def _choose(case: Case, compiling: bool) -> Kernel:
    if sdpa.refusal(case) is None:
        return sdpa
    if case.device == "cuda" and case.pairs >= LARGE and not compiling and flex.refusal(case) is None:
        return flex
    if case.pairs < TROUBLE or UNBOUNDED in case.mask.cover():
        return dense
    for kernel in SPECIAL:
        if kernel.refusal(case) is None and 2 * kernel.pairs(case) + TROUBLE <= case.pairs:
            return kernel
    return dense


_remembered_choice = lru_cache(maxsize=1024)(_choose)


@dataclass(frozen=True)
class Choice:
    """Which kernel ``attend`` picks, and why."""

    kernel: str
    why: str
    cost: str
    pairs: float
    """Score pairs it computes, as a share of the n × n."""

    def __str__(self) -> str:
        return f"{self.kernel}: {self.why}; {self.cost} time, {self.pairs:.1%} of the score matrix"


def explain(
    mask: Mask = Full(),
    n: int = 1024,
    k_len: int | None = None,
    *,
    bias: Bias | None = None,
    dropout: float = 0.0,
    device: str | torch.device = "cpu",
) -> Choice:
    """Which kernel ``attend`` picks for ``n`` queries (and as many keys, or ``k_len``), and why."""
    if not isinstance(mask, Mask):
        raise not_a_mask(mask)
    learned = bias is not None and bias.learned
    mask = _as_one_sees_it(mask, k_len or n) if n == 1 else mask
    case = Case(mask, n, k_len or n, torch.device(device).type, bias is not None, learned, dropout > 0)
    kernel = choose(case)
    return Choice(kernel.name, kernel.reason(case), kernel.cost, kernel.pairs(case) / case.pairs)


def _autocast(*tensors: Tensor) -> list[Tensor]:
    """Under autocast, all in its type, as PyTorch does for its own attention."""
    kind = tensors[0].device.type
    if not torch.is_autocast_enabled(kind):
        return list(tensors)
    dtype = torch.get_autocast_dtype(kind)
    return [x if x.dtype == torch.float64 else x.to(dtype) for x in tensors]


def _check(q: Tensor, k: Tensor, v: Tensor, mask: Mask, bias: Bias | None) -> None:
    if not isinstance(mask, Mask):
        raise not_a_mask(mask)
    if bias is not None and not isinstance(bias, Bias):
        raise FieldguideError(
            f"attend: bias is {type(bias).__name__}; give added scores as Scores(tensor), visibility as mask"
        )
    b, h, q_len, c = q.shape
    if k.shape[:3] != v.shape[:3] or k.shape[0] != b or k.shape[3] != c or h % k.shape[1]:
        raise FieldguideError(
            f"attend: q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)} do not fit; they are (b, h, q, c), "
            "(b, g, k, c) and (b, g, k, e) with h a multiple of g"
        )
    if not q.dtype == k.dtype == v.dtype and not torch.is_autocast_enabled(q.device.type):
        raise FieldguideError(f"attend: q, k and v are {q.dtype}, {k.dtype} and {v.dtype}; convert them to one type")
    mask.check(b, q_len, k.shape[2])
    if bias is not None:
        bias.check(b, h, q_len, k.shape[2])
