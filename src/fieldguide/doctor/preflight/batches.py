"""What a training feeds, in plain numbers: batches become ``records.BatchFacts`` and ``records.LoaderFacts``.

Everything is sampled to a bounded size and fetched in one copy a batch, so that a batch costs well under a millisecond.
"""

import dis
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fieldguide.doctor.records import BatchFacts, LoaderFacts

_SEEDS = {"seed", "manual_seed", "default_rng", "RandomState", "Random"}
_OWN = {"initial_seed", "get_worker_info", "getpid", "urandom", "time", "time_ns", "SeedSequence"}
_ENTRIES, _COLUMNS, _DISTINCT, _ROWS, _VISITED = 1 << 15, 256, 1000, 200_000, 10_000
IGNORED = -100
"""Targets that cross entropy leaves out."""


class Feed:
    """Facts about one stream of tensors, the samples on their first axis: ``add`` each batch, then read ``facts``."""

    def __init__(self, *, labels: bool = False):
        self.labels = labels
        self.values: Counter[float] = Counter()
        """How often each target occurs; no longer counted when there are more than 1,000."""
        self.drawn: list[float] = []
        """Up to 64 targets of every batch, for what few of them exceed."""
        self.moments: Tensor | None = None
        """Count, sum and sum of squares of up to 256 features, by column."""
        self._facts: dict[str, Any] = {"samples": 0, "non_finite": 0, "constant": 0, "whole": True}
        self._sums = [0.0] * 4

    @torch.no_grad()
    def add(self, x: Tensor, ignored: int = IGNORED) -> None:
        if not x.numel() or x.is_complex() or x.is_sparse:
            return
        facts, x = self._facts, x.detach()
        facts["shape"], facts["dtype"] = facts.get("shape", list(x.shape)), str(x.dtype).removeprefix("torch.")
        facts["samples"] += len(x) if x.ndim else 1
        if self.labels and not x.is_floating_point():
            self._add_whole(x, ignored)
            return
        values, bad = _sampled(x.flatten(), _ENTRIES).double(), 0
        if x.is_floating_point() and not math.isfinite(x.sum().item()):
            bad = int((~x.isfinite()).sum().item())
            facts["non_finite"] += bad
        counted = values[values.isfinite() & (values != ignored)] if self.labels or bad else values
        if not len(counted):
            return
        square, table = counted.square(), x.ndim >= 2
        if table and counted is values and len(values) == x.numel() <= len(x) * _COLUMNS:
            rows, square_rows = values.view(len(x), -1), square.view(len(x), -1)
        elif table:
            rows = _columns(x).double()
            square_rows = rows.square()
        else:
            rows = square_rows = counted[:, None]
        figures = [*counted.aminmax(), counted.sum(), square.sum(), counted.abs().sum()]
        if facts["whole"]:
            figures.append((counted == counted.round()).all().double())
        if several := table and rows.shape[1] > 1:
            figures.append((rows == rows[:, :1]).all(1).sum().double())
        low, high, total, squares, size, *rest = torch.stack(figures).tolist()
        self._include(low, high, (float(len(counted)), total, squares, size))
        facts["constant"] += int(rest[-1]) if several else 0
        facts["whole"] = facts["whole"] and bool(rest[0])
        if self.labels:
            found, counts = counted.unique(return_counts=True)
            self._count(dict(zip(found[: _DISTINCT + 1].tolist(), counts.tolist(), strict=False)))
            self._draw(counted.tolist())
        elif table and not bad:
            new = torch.stack([torch.full_like(rows[0], len(rows)), rows.sum(0), square_rows.sum(0)]).cpu()
            same = self.moments is not None and self.moments.shape == new.shape
            self.moments = self.moments + new if same else new  # pyright: ignore[reportOptionalOperand]

    def _add_whole(self, x: Tensor, ignored: int) -> None:
        """Targets that are whole numbers: few differ, so that counts say it all."""
        values = _sampled(x.flatten(), _ENTRIES).long().tolist()
        counts = Counter(values)
        if counts.pop(ignored, 0):
            values = [value for value in values if value != ignored]
        if not counts:
            return
        each = counts.items()
        sums = sum(v * n for v, n in each), sum(v * v * n for v, n in each), sum(abs(v) * n for v, n in each)
        self._include(float(min(counts)), float(max(counts)), tuple(map(float, (len(values), *sums))))
        if x.ndim >= 2 and (rows := _columns(x)).shape[1] > 1:
            self._facts["constant"] += int((rows == rows[:, :1]).all(1).sum())
        self._count(counts)
        self._draw(values)

    def _include(self, low: float, high: float, sums: tuple[float, ...]) -> None:
        facts = self._facts
        facts["min"], facts["max"] = min(low, facts.get("min", low)), max(high, facts.get("max", high))
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)]

    def _count(self, counts: Mapping[int, int] | Mapping[float, int]) -> None:
        if len(self.values) <= _DISTINCT:
            self.values.update({float(value): n for value, n in counts.items()})

    def _draw(self, values: list[int] | list[float]) -> None:
        if len(self.drawn) < _ROWS:
            self.drawn += map(float, values[:: math.ceil(len(values) / 64)])

    def facts(self, training: "Feed | None" = None) -> dict[str, Any]:
        """``records.BatchFacts`` so far; compared with the training part's where that is given."""
        facts: dict[str, Any] = {**self._facts}
        count, total, squares, size = self._sums
        if count:
            mean = total / count
            facts |= {"mean": mean, "std": math.sqrt(max(0.0, squares / count - mean * mean)), "abs_mean": size / count}
        if self.labels:
            facts["distinct"] = min(len(self.values), _DISTINCT)
            if self.drawn:
                drawn, few = sorted(self.drawn), len(self.drawn) // 100
                facts["low"], facts["high"] = drawn[few], drawn[-1 - few]
            if facts["whole"] and len(self.values) <= _DISTINCT:
                facts["classes"] = {str(int(value)): n for value, n in sorted(self.values.items())}
        spread = self._deviations()
        if spread is not None and len(facts.get("shape", [])) == 2 and (spread > 0).sum() >= 2:
            ordered = spread[spread > 0].sort().values
            facts["feature_std_ratio"] = (ordered[(9 * len(ordered)) // 10] / ordered[len(ordered) // 10]).item()
        if training is not None and (shift := self._shifted(training)) is not None:
            facts["shifted"] = shift
        return facts

    def _deviations(self) -> Tensor | None:
        if self.moments is None:
            return None
        n, total, squares = self.moments
        return (squares / n - (total / n).square()).clamp(min=0).sqrt()

    def _shifted(self, training: "Feed") -> float | None:
        mine, theirs = self.moments, training.moments
        if mine is None or theirs is None or mine.shape != theirs.shape or min(mine[0, 0], theirs[0, 0]) < 64:
            return None
        spread = training._deviations()
        assert spread is not None
        apart = (mine[1] / mine[0] - theirs[1] / theirs[0]).abs()
        varied = spread > 0
        return (apart > 0.5 * spread)[varied].double().mean().item() if varied.any() else None  # pyright: ignore


class Rows:
    """Which samples were seen, by a hash of each; at most 200,000."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.total = self.repeated = 0

    def add(self, x: Tensor) -> None:
        """One training batch. Call it during the first epoch only, so that repeats are of the data."""
        if self.total >= _ROWS or x.ndim < 2:
            return
        hashes = row_hashes(x)
        fresh = set(hashes) - self.seen
        self.total += len(hashes)
        self.repeated += len(hashes) - len(fresh)
        self.seen |= fresh

    @property
    def repeats(self) -> float:
        """``duplicates`` of the training inputs."""
        return self.repeated / self.total if self.total else 0.0


class Evaluations:
    """Compares evaluation passes with the training part and with one another."""

    def __init__(self, training: Rows):
        self.training = training
        self._inputs: list[int] = []
        self._targets: list[int] = []
        self._before: tuple[list[int], list[int]] = [], []
        self._facts: BatchFacts = {}

    def add(self, x: Tensor, target: Tensor | None) -> None:
        """One batch of a pass."""
        if x.ndim >= 2 and len(self._inputs) < _ROWS:
            self._inputs += row_hashes(x)
            if target is not None and target.ndim:
                self._targets += row_hashes(target.reshape(len(target), -1))

    def end(self) -> None:
        """The pass is over."""
        inputs, targets = self._inputs, self._targets
        self._inputs, self._targets = [], []
        if not inputs:
            return
        known, mine = self.training.seen, set(inputs)
        share = sum(row in known for row in inputs) / len(inputs)
        self._facts["duplicates"] = min(share, self._facts.get("duplicates", 1.0))
        covered = len(mine & known) / max(1, len(known))
        self._facts["covered"] = max(covered, self._facts.get("covered", 0.0))
        before, answers = self._before
        if len(targets) == len(inputs) == len(before) and answers == targets and len(set(targets)) > 1:
            self._facts["changed"] = len(mine - set(before)) / len(mine)
        self._before = inputs, targets

    def facts(self) -> BatchFacts:
        """``duplicates`` of the pass that has fewest, ``covered``, ``changed``."""
        return {**self._facts}


class Order:
    """Whether labels come in runs within an epoch: ``add`` the labels of every batch in turn."""

    def __init__(self) -> None:
        self.labels: list[int] = []
        self.purity: list[float] = []

    def add(self, labels: Tensor) -> None:
        """One batch of whole-number labels, one for each sample; others are left out."""
        labels = labels.detach().reshape(-1) if labels.ndim == 1 or labels[0].numel() == 1 else labels[:0].reshape(-1)
        if len(labels) > 1 and len(self.labels) < _ROWS:
            values = labels.tolist()
            if not labels.is_floating_point() or all(value.is_integer() for value in values):
                self.labels += map(int, values)
                self.purity.append(max(Counter(values).values()) / len(values))

    def facts(self) -> LoaderFacts:
        n, counts = len(self.labels), Counter(self.labels).values()
        if n < 64 or not 2 <= len(counts) <= n // 4:
            return {}
        return {"order_z": runs_z(self.labels), "batch_purity": sum(self.purity) / len(self.purity)}


def runs_z(labels: list[int]) -> float:
    """Standard deviations by which the runs of equal labels are fewer than in random order.

    Wald & Wolfowitz 1940, "On a Test Whether Two Samples are from the Same Population", for any number of classes
    (Barton & David 1957, "Multiple Runs").
    """
    n, counts = len(labels), list(Counter(labels).values())
    runs = 1 + sum(a != b for a, b in itertools.pairwise(labels))
    s2, s3 = sum(c**2 for c in counts), sum(c**3 for c in counts)
    expected = (n * (n + 1) - s2) / n
    variance = (s2 * (s2 + n * (n + 1)) - 2 * n * s3 - n**3) / (n**2 * (n - 1))
    return (expected - runs) / math.sqrt(variance) if variance > 0 else 0.0


@torch.no_grad()
def row_hashes(x: Tensor) -> list[int]:
    """One number for each sample, equal for samples that are equal in up to 256 evenly spaced entries."""
    rows = _columns(x.detach())
    bits = rows.contiguous().double().view(torch.int64) if rows.is_floating_point() else rows.long()
    mixed = (bits ^ (bits >> 29)).mul_(_weights(bits.shape[1], x.device))
    return (mixed ^ (mixed >> 32)).sum(1).tolist()


@lru_cache(8)
def _weights(columns: int, device: torch.device) -> Tensor:
    return torch.arange(1, columns + 1, device=device) * 0x9E3779B97F4A7C1 | 1


def _columns(x: Tensor) -> Tensor:
    flat = x.flatten(1)
    return flat[:, :: math.ceil(flat.shape[1] / _COLUMNS)] if flat.shape[1] > _COLUMNS else flat


def _sampled(flat: Tensor, most: int) -> Tensor:
    return flat[:: math.ceil(len(flat) / most)] if len(flat) > most else flat


# ------------------------------------------------------------------------------------------------- workers


def worker_generators(loader: Any) -> list[str]:
    """Random generators that a loader's data set reads for a sample, and that every worker gets in the same state.

    Found in attributes and closures without running anything. With a ``worker_init_fn`` it is that one alone, where it
    seeds every worker alike. Empty when there is one worker.
    """
    if getattr(loader, "num_workers", 0) < 2:
        return []
    begin = getattr(loader, "worker_init_fn", None)
    if begin is not None:
        return ["the seed that worker_init_fn sets"] if _seeds_alike(begin) else []
    return generators(loader.dataset)


def generators(*things: Any) -> list[str]:
    """Random generators that data sets or modules read when they are used, by where they are held."""
    found: list[str] = []
    done = set(map(id, things))  # each is entered once, however it is reached from another
    for thing in things:
        done.discard(id(thing))
        _walk(thing, type(thing).__name__, found, done, depth=6)
    return found


def _seeds_alike(begin: Any) -> bool:
    """It seeds a generator, and neither reads the worker's number nor asks torch for anything of that worker."""
    code = getattr(begin, "__code__", None)
    if code is None or code.co_argcount != 1:
        return False
    number = code.co_varnames[0]
    read = number in code.co_cellvars or any(
        step.argval == number or (isinstance(step.argval, tuple) and number in step.argval)
        for step in dis.get_instructions(code)
    )
    return not read and bool(_SEEDS & set(code.co_names)) and not _OWN & set(code.co_names)


def _walk(thing: Any, path: str, found: list[str], done: set[int], depth: int) -> None:
    if (
        id(thing) in done
        or depth < 0
        or len(done) > _VISITED
        or isinstance(thing, Tensor | str | bytes | int | float | type)
    ):
        return
    done.add(id(thing))
    if _is_generator(thing):
        found.append(path)
    elif isinstance(thing, list | tuple | set):
        for number, part in enumerate(list(thing)[:50]):
            _walk(part, f"{path}[{number}]", found, done, depth - 1)
    elif isinstance(thing, dict):
        for name, part in list(thing.items())[:50]:
            _walk(part, f"{path}[{name!r}]", found, done, depth - 1)
    elif (code := getattr(thing, "__code__", None)) is not None:
        for name, cell in zip(code.co_freevars, getattr(thing, "__closure__", None) or (), strict=False):
            _walk(_content(cell), f"{path}.{name}", found, done, depth - 1)
        for name in code.co_names:
            if _is_generator(value := getattr(thing, "__globals__", {}).get(name)):
                _walk(value, name, found, done, depth - 1)
    elif hasattr(thing, "__func__"):
        _walk(thing.__func__, path, found, done, depth - 1)
        _walk(thing.__self__, path, found, done, depth - 1)
    elif isinstance(attributes := getattr(thing, "__dict__", None), dict):
        read = _names_read(type(thing))
        for name, part in attributes.items():
            if name in read:
                _walk(part, f"{path}.{name}", found, done, depth - 1)
        for method in ("__getitem__", "__call__", "__iter__", "forward"):
            _walk(getattr(type(thing), method, None), path, found, done, depth - 1)


def _is_generator(thing: Any) -> bool:
    kind = type(thing)
    plain = kind.__module__ == "random" and kind.__name__ == "Random"
    return (
        plain
        or isinstance(thing, torch.Generator)
        or (kind.__module__.startswith("numpy.random") and kind.__name__ in {"Generator", "RandomState"})
    )


@lru_cache(1000)
def _names_read(kind: type) -> set[str]:
    """Attribute names that the methods of a class mention, those of ``__init__`` left out."""
    members = {name: member for base in reversed(kind.__mro__) for name, member in vars(base).items()}
    methods = [member for name, member in members.items() if name != "__init__"]
    return {name for method in methods if (code := getattr(method, "__code__", None)) for name in code.co_names}


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
