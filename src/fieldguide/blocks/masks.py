"""Who may see whom: frozen values closed under ``&``, ``|`` and ``~``.

A mask is Boolean visibility, True = may attend. It answers one question, :meth:`Mask.visible`, with elementwise
operators only, so the same method serves index tensors, FlexAttention and a picture. Scores that are *added* are
another type (:mod:`fieldguide.blocks.biases`).

Axis letters: b batch, h heads, q query position, k key position, n tokens. The q queries are the *last* q of the
k positions, so decoding with a cache needs no other mask than training did.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import reduce
from math import inf, lcm
from operator import and_, or_
from typing import ClassVar

import torch

from fieldguide.errors import FieldguideError
from fieldguide.shapes import Bool, Size, Tensor

__all__ = [
    "And",
    "Band",
    "Causal",
    "Chunked",
    "Dilated",
    "Documents",
    "Full",
    "Global",
    "Keys",
    "Mask",
    "Not",
    "Or",
    "Padding",
    "Prefix",
    "Queries",
    "Strided",
    "Window",
]

EXACT_DENSITY = 4096  # tokens up to which density() counts every pair


@dataclass(frozen=True, repr=False)
class Mask:
    """Visibility of keys to queries; ``&`` both allow, ``|`` either allows, ``~`` the rest.

    A new pattern is a frozen dataclass with ``visible``; ``cover`` and ``depends_on`` are optional and let kernels
    be faster.
    """

    depends_on: ClassVar[frozenset[str]] = frozenset({"batch", "head", "query", "key"})
    """What visibility is a function of: any of "batch", "head", "query", "key" and "distance" (query − key)."""

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """True where position ``q`` may attend to position ``k``: Boolean, broadcast from the four index tensors."""
        raise NotImplementedError

    def cover(self) -> tuple["Mask", ...]:
        """Regions a kernel can walk cheaply (``Band``, ``Keys``, ``Queries``) that hold every visible pair."""
        return (Band(),)

    @property
    def relative(self) -> bool:
        """Whether only the distance matters, so that one tile serves every place of a sequence."""
        return self.depends_on <= {"distance"}

    @property
    def extent(self) -> tuple[int, int]:
        """How many batch rows and heads the mask tells apart; (1, 1) for pure structure."""
        return 1, 1

    def check(self, batch: Size, q_len: int, k_len: int) -> None:
        """Raise ``FieldguideError`` when the mask holds data of other sizes."""

    def dense(
        self, q_len: int, k_len: int | None = None, *, device: torch.device | str | None = None
    ) -> Bool[Tensor, "b h q k"]:
        """The mask as a tensor for the last ``q_len`` of ``k_len`` positions; b and h are the mask's ``extent``."""
        k_len = q_len if k_len is None else k_len
        b, h = self.extent
        self.check(b, q_len, k_len)
        seen = self.visible(
            torch.arange(b, device=device).view(-1, 1, 1, 1),
            torch.arange(h, device=device).view(-1, 1, 1),
            torch.arange(k_len - q_len, k_len, device=device).view(-1, 1),
            torch.arange(k_len, device=device),
        )
        return seen.expand(b, h, q_len, k_len)

    def mask_mod(self, q_len: int, k_len: int) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The plain four-argument function that FlexAttention asks for; there, queries count from 0."""
        offset = k_len - q_len

        def mask_mod(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return self.visible(b, h, q + offset, k)

        return mask_mod

    def density(self, n: int) -> float:
        """The visible share of n × n pairs: exact up to 4,096 tokens, from 1,024 evenly spaced queries beyond."""
        (b, h), keys = self.extent, torch.arange(n)
        self.check(b, n, n)
        queries = keys if n <= EXACT_DENSITY else torch.linspace(0, n - 1, 1024).long()
        index = torch.arange(b).view(-1, 1, 1, 1), torch.arange(h).view(-1, 1, 1)
        blocks = [self.visible(*index, q.view(-1, 1), keys).expand(b, h, len(q), n) for q in queries.split(256)]
        return sum(int(block.sum()) for block in blocks) / (b * h * len(queries) * n)

    def __and__(self, other: "Mask") -> "Mask":
        return And.of(self, other)

    def __or__(self, other: "Mask") -> "Mask":
        return Or.of(self, other)

    def __invert__(self) -> "Mask":
        return Not(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(repr(getattr(self, field.name)) for field in fields(self))})"


# --- Structure


@dataclass(frozen=True, repr=False)
class Full(Mask):
    """Every query sees every key."""

    depends_on = frozenset()

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return k == k


@dataclass(frozen=True, repr=False)
class Causal(Mask):
    """Keys up to the query's own position (Vaswani et al. 2017, §3.2.3)."""

    depends_on = frozenset({"distance"})

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return k <= q

    def cover(self) -> tuple[Mask, ...]:
        return (Band(0, inf),)


@dataclass(frozen=True, repr=False)
class Window(Mask):
    """Keys closer than ``size`` on either side; ``Window(1)`` sees only itself (Beltagy et al. 2020, §3.1)."""

    size: int
    depends_on = frozenset({"distance"})

    def __post_init__(self):
        _positive(self, size=self.size)

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q - k).abs() < self.size

    def cover(self) -> tuple[Mask, ...]:
        return (Band(1 - self.size, self.size - 1),)


@dataclass(frozen=True, repr=False)
class Dilated(Mask):
    """Every ``step``-th key; with a window, Longformer's dilated sliding window (Beltagy et al. 2020, §3.1)."""

    step: int
    depends_on = frozenset({"distance"})

    def __post_init__(self):
        _positive(self, step=self.step)

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q - k) % self.step == 0

    def cover(self) -> tuple[Mask, ...]:
        return (Band(step=self.step),)


@dataclass(frozen=True, repr=False)
class Strided(Mask):
    """The nearest ``stride`` keys and every ``stride``-th key (Sparse Transformer; Child et al. 2019, §4.2).

    The paper gives the two parts to different heads or merges them; here each head sees both. ``stride`` near √n
    makes attention cost n·√n.
    """

    stride: int
    depends_on = frozenset({"distance"})

    def __post_init__(self):
        _positive(self, stride=self.stride)

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return ((q - k).abs() < self.stride) | ((q - k) % self.stride == 0)

    def cover(self) -> tuple[Mask, ...]:
        return Band(1 - self.stride, self.stride - 1), Band(step=self.stride)


@dataclass(frozen=True, repr=False)
class Chunked(Mask):
    """Keys of the query's own chunk of ``size`` positions (block-local attention; Qiu et al. 2020)."""

    size: int
    depends_on = frozenset({"query", "key"})

    def __post_init__(self):
        _positive(self, size=self.size)

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return q // self.size == k // self.size

    def cover(self) -> tuple[Mask, ...]:
        return (Band(1 - self.size, self.size - 1),)


@dataclass(frozen=True, repr=False)
class Prefix(Mask):
    """The first ``length`` keys; ``Causal() | Prefix(p)`` is a prefix language model (Raffel et al. 2020, §3.2.1)."""

    length: int
    depends_on = frozenset({"key"})

    def __post_init__(self):
        _positive(self, length=self.length)

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return k < self.length

    def cover(self) -> tuple[Mask, ...]:
        return (Keys(((0, self.length),)),)


@dataclass(frozen=True, repr=False)
class Global(Mask):
    """Chosen positions see everyone and are seen by everyone (Longformer; Beltagy et al. 2020, §3.1).

    ``positions`` is any iterable of positions, kept sorted; ``Window(w) | Global([0])`` is Longformer's pattern.
    """

    positions: Iterable[int]
    depends_on = frozenset({"query", "key"})

    def __post_init__(self):
        positions = tuple(sorted(set(self.positions)))
        if not positions or not all(isinstance(p, int) and p >= 0 for p in positions):
            raise FieldguideError(
                f"Global: positions are whole numbers from 0 on, at least one; not {self.positions!r}"
            )
        object.__setattr__(self, "positions", positions)

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """The positions as half-open runs: (0, 1, 2, 9) → ((0, 3), (9, 10))."""
        positions = tuple(self.positions)
        starts = [p for p in positions if p - 1 not in positions]
        stops = [p + 1 for p in positions if p + 1 not in positions]
        return tuple(zip(starts, stops, strict=True))

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return _within(q, self.runs) | _within(k, self.runs)

    def cover(self) -> tuple[Mask, ...]:
        return Keys(self.runs), Queries(self.runs)

    def __repr__(self) -> str:
        positions = list(self.positions)
        run = range(positions[0], positions[-1] + 1)
        return f"Global({run if len(positions) > 4 and positions == list(run) else positions})"


# --- Data: arguments of ``forward``, never module state


class _Held(Mask):
    """A mask that holds a tensor: equal by content; its hash is its shape's, since a hash must not read a device."""

    @property
    def data(self) -> Tensor:
        return getattr(self, fields(self)[0].name)

    @property
    def extent(self) -> tuple[int, int]:
        return self.data.shape[0], 1

    def row(self, b: Tensor) -> Tensor:
        """``b``, or 0 when one row serves the whole batch."""
        return b if self.data.shape[0] > 1 else b * 0

    def check(self, batch: Size, q_len: int, k_len: int) -> None:
        rows, n = self.data.shape
        if n != k_len or rows not in (1, batch):
            raise FieldguideError(
                f"{self!r} does not fit a batch of {batch} with {k_len} keys; it needs ({batch}, {k_len})"
            )

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        mine, others = self.data, other.data  # pyright: ignore[reportAttributeAccessIssue]
        same_place = mine.shape == others.shape and mine.device == others.device
        return mine is others or (same_place and not torch.compiler.is_compiling() and torch.equal(mine, others))

    def __hash__(self) -> int:
        return hash((type(self), self.data.shape))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<{'×'.join(map(str, self.data.shape))} {self.data.dtype}>)".replace("torch.", "")


@dataclass(frozen=True, repr=False, eq=False)
class Documents(_Held):
    """Packed documents: keys whose id equals the query's; ``ids`` is (b|1, n) whole numbers, one per position.

    Holds data: an argument of ``forward`` only.
    """

    ids: Tensor
    depends_on = frozenset({"batch", "query", "key"})

    def __post_init__(self):
        if not isinstance(self.ids, Tensor) or self.ids.ndim != 2 or self.ids.is_floating_point():
            raise FieldguideError(f"Documents: ids are whole numbers (b, n), not {_kind(self.ids)}")

    def check(self, batch: Size, q_len: int, k_len: int) -> None:
        super().check(batch, q_len, k_len)
        if q_len > k_len:
            raise FieldguideError(f"{self!r} has no ids for the first {q_len - k_len} of {q_len} queries")

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return self.ids[self.row(b), q] == self.ids[self.row(b), k]

    def dense(
        self, q_len: int, k_len: int | None = None, *, device: torch.device | str | None = None
    ) -> Bool[Tensor, "b 1 q k"]:
        """The same without looking each id up: many short rows, as windows of an image are, need it often."""
        k_len = q_len if k_len is None else k_len
        self.check(self.ids.shape[0], q_len, k_len)
        ids = self.ids[:, None]
        return ids[..., k_len - q_len :, None] == ids[..., None, :]


@dataclass(frozen=True, repr=False, eq=False)
class Padding(_Held):
    """Only real keys are seen: ``keep`` is Boolean (b|1, n), True = a real token.

    Holds data: an argument of ``forward`` only. Padded *queries* still see the real keys; their rows mean nothing.
    """

    keep: Tensor
    depends_on = frozenset({"batch", "key"})

    def __post_init__(self):
        if not isinstance(self.keep, Tensor) or self.keep.ndim != 2 or self.keep.dtype != torch.bool:
            raise FieldguideError(f"Padding: keep says who is a real token, Boolean (b, n), not {_kind(self.keep)}")

    @staticmethod
    def of(keep: Tensor | None) -> Mask:
        """The mask of a ``keep``, which hides nothing where there is none."""
        return FULL if keep is None else Padding(keep)

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return self.keep[self.row(b), k]

    def dense(
        self, q_len: int, k_len: int | None = None, *, device: torch.device | str | None = None
    ) -> Bool[Tensor, "b 1 q k"]:
        """The rows as they are: every layer asks for them at every step of generation."""
        k_len = q_len if k_len is None else k_len
        self.check(len(self.keep), q_len, k_len)
        return self.keep[:, None, None].expand(-1, 1, q_len, k_len)


# --- Algebra


@dataclass(frozen=True, repr=False, eq=False)
class _Joined(Mask):
    """Two or more masks under one operator; their order is kept for the eye and does not count in ``==``."""

    terms: tuple[Mask, ...]

    @property
    def depends_on(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return frozenset().union(*(term.depends_on for term in self.terms))

    @property
    def extent(self) -> tuple[int, int]:
        extents = [term.extent for term in self.terms]
        return max(b for b, _ in extents), max(h for _, h in extents)

    def check(self, batch: Size, q_len: int, k_len: int) -> None:
        for term in self.terms:
            term.check(batch, q_len, k_len)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and set(self.terms) == set(other.terms)  # pyright: ignore[reportAttributeAccessIssue]

    def __hash__(self) -> int:
        return hash((type(self), frozenset(self.terms)))


class And(_Joined):
    """What all terms allow; written ``a & b``."""

    @staticmethod
    def of(*masks: Mask) -> Mask:
        """The simplest mask that says ``a & b & …``."""
        terms = _flat(And, masks)
        if NOTHING in terms:
            return NOTHING
        terms = tuple(term for term in terms if term != FULL)
        return And(terms) if len(terms) > 1 else (*terms, FULL)[0]

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return reduce(and_, (term.visible(b, h, q, k) for term in self.terms))

    def cover(self) -> tuple[Mask, ...]:
        return reduce(_intersection, (term.cover() for term in self.terms))

    def __repr__(self) -> str:
        return " & ".join(f"({term!r})" if isinstance(term, Or) else repr(term) for term in self.terms)


class Or(_Joined):
    """What any term allows; written ``a | b``."""

    @staticmethod
    def of(*masks: Mask) -> Mask:
        """The simplest mask that says ``a | b | …``."""
        terms = _flat(Or, masks)
        if FULL in terms:
            return FULL
        terms = tuple(term for term in terms if term != NOTHING)
        return Or(terms) if len(terms) > 1 else (*terms, NOTHING)[0]

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return reduce(or_, (term.visible(b, h, q, k) for term in self.terms))

    def cover(self) -> tuple[Mask, ...]:
        return _union(region for term in self.terms for region in term.cover())

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.terms))


@dataclass(frozen=True, repr=False)
class Not(Mask):
    """What the mask hides; written ``~mask``."""

    mask: Mask

    @property
    def depends_on(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.mask.depends_on

    @property
    def extent(self) -> tuple[int, int]:
        return self.mask.extent

    def check(self, batch: Size, q_len: int, k_len: int) -> None:
        self.mask.check(batch, q_len, k_len)

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return ~self.mask.visible(b, h, q, k)

    def cover(self) -> tuple[Mask, ...]:
        match self.mask:
            case Full():
                return ()
            case Causal():
                return (Band(-inf, -1),)
            case And(terms):
                return Or.of(*(~term for term in terms)).cover()
            case Or(terms):
                return And.of(*(~term for term in terms)).cover()
        return (Band(),)

    def __invert__(self) -> Mask:
        return self.mask

    def __repr__(self) -> str:
        return f"~({self.mask!r})" if isinstance(self.mask, _Joined) else f"~{self.mask!r}"


FULL, NOTHING = Full(), Not(Full())


def _flat(kind: type[_Joined], masks: Iterable[object]) -> tuple[Mask, ...]:
    """The terms of the masks under one operator, each once."""
    terms: list[Mask] = []
    for mask in masks:
        if not isinstance(mask, Mask):
            raise not_a_mask(mask)
        for term in mask.terms if isinstance(mask, kind) else (mask,):
            if term not in terms:
                terms.append(term)
    return tuple(terms)


# --- Regions: what covers are made of


@dataclass(frozen=True, repr=False)
class Band(Mask):
    """Distances ``low ≤ q − k ≤ high``, either of which may be infinite, that are multiples of ``step``."""

    low: int | float = -inf
    high: int | float = inf
    step: int = 1
    depends_on = frozenset({"distance"})

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        distance = q - k
        inside = (distance >= self.low) & (distance <= self.high)
        return inside & (distance % self.step == 0) if self.step > 1 else inside

    def cover(self) -> tuple[Mask, ...]:
        return (self,)

    def holds(self, other: "Band") -> bool:
        """Whether every distance of the other band is one of this band's."""
        return self.low <= other.low and other.high <= self.high and other.step % self.step == 0

    @property
    def width(self) -> float:
        """How many distances it holds, about."""
        return max(0.0, self.high - self.low + 1) / self.step


@dataclass(frozen=True, repr=False)
class Keys(Mask):
    """Every query sees the keys in ``runs`` of positions [start, stop)."""

    runs: tuple[tuple[int, int], ...]
    depends_on = frozenset({"key"})

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return _within(k, self.runs)

    def cover(self) -> tuple[Mask, ...]:
        return (self,)


@dataclass(frozen=True, repr=False)
class Queries(Mask):
    """The queries in ``runs`` of positions [start, stop) see every key."""

    runs: tuple[tuple[int, int], ...]
    depends_on = frozenset({"query"})

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return _within(q, self.runs)

    def cover(self) -> tuple[Mask, ...]:
        return (self,)


def _within(x: Tensor, runs: tuple[tuple[int, int], ...]) -> Tensor:
    return reduce(or_, ((x >= start) & (x < stop) for start, stop in runs))


def _union(regions: Iterable[Mask]) -> tuple[Mask, ...]:
    """Each region once; bands of one step become the band that spans them."""
    bands: dict[int, Band] = {}
    others: dict[Mask, None] = {}
    for region in regions:
        if not isinstance(region, Band):
            others[region] = None
        elif region.width:
            spanned = bands.get(region.step, region)
            low, high = min(region.low, spanned.low), max(region.high, spanned.high)
            bands[region.step] = Band(low, high, region.step)
    return (Band(),) if bands.get(1) == Band() else (*bands.values(), *others)


def _intersection(a: tuple[Mask, ...], b: tuple[Mask, ...]) -> tuple[Mask, ...]:
    """Of every two regions, one that holds their common pairs."""
    return _union(_narrower(x, y) for x in a for y in b)


def _narrower(a: Mask, b: Mask) -> Mask:
    if isinstance(a, Band) and isinstance(b, Band):
        return Band(max(a.low, b.low), min(a.high, b.high), lcm(a.step, b.step))
    if isinstance(b, Band):
        a, b = b, a
    if isinstance(a, Band):
        return a if a.width < inf else b
    return a if isinstance(a, Keys | Queries) else b


# --- Refusals


def not_a_mask(given: object) -> FieldguideError:
    """The error for anything but a mask where a mask belongs: most often scores to add, or a Boolean tensor."""
    return FieldguideError(
        f"mask says who may see whom, as Causal() & Padding(keep) does; {_kind(given)} is none "
        "(scores to add belong in bias=, which tokens are real in Padding(keep))"
    )


def _kind(given: object) -> str:
    if isinstance(given, Tensor):
        return f"a {str(given.dtype).removeprefix('torch.')} tensor of shape {tuple(given.shape)}"
    return f"{given!r}"


def _positive(mask: Mask, **sizes: object) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise FieldguideError(f"{type(mask).__name__}: {name} is a positive whole number, not {size!r}")
