"""Anything that gives batches, seen as one kind of feed: an order that depends on (seed, epoch, position) only."""

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from traceback import format_exc
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from fieldguide.errors import FieldguideError
from fieldguide.objectives.phase import Batch
from fieldguide.train.failures import BadData, is_out_of_memory
from fieldguide.train.randomness import reseed, untouched


@runtime_checkable
class Feed(Protocol):
    """Batches of a data set, epoch after epoch."""

    def __len__(self) -> int:
        """Batches in an epoch."""
        ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches from number ``start`` of an epoch; equal arguments give equal batches."""
        ...


@runtime_checkable
class DataSet(Protocol):
    """A data set in parts, which knows how its own batches are made."""

    @property
    def fingerprint(self) -> str:
        """Of its content: a run goes on with the same data only."""
        ...

    def feeds(self, recipe: Any, /) -> tuple[Feed, Feed | None, Feed | None]:
        """Batches of the training, validation and test part, of the recipe's size and in the order of its seed."""
        ...


class IndexedFeed:
    """Batches from a tuple of tensors ``(inputs, targets, …)`` or from a map-style data set of torch.

    Every epoch has its own order, drawn from (seed, epoch). What a data set draws from the global generators of torch,
    NumPy and Python depends on (seed, epoch, sample) only, so any number of worker processes reads the same batches
    from any position; tensors are simply indexed.

    Its iterators raise BadData for a sample that cannot be read, and for a worker process that dies.
    """

    def __init__(self, source: Any, batch_size: int, *, seed: int, shuffle: bool, workers: int = 0):
        self.source, self.batch_size, self.seed, self.shuffle = source, batch_size, seed, shuffle
        self.workers = workers
        self._tensors = isinstance(source, tuple | list) and all(isinstance(part, Tensor) for part in source)
        self.samples = len(source[0]) if self._tensors else len(source)
        if self._tensors and len({len(part) for part in source}) > 1:
            raise FieldguideError(f"data: the tensors have different lengths: {', '.join(str(len(p)) for p in source)}")
        if shuffle and batch_size > self.samples:
            raise FieldguideError(
                f"batch_size {batch_size} is larger than the training part ({self.samples} samples); "
                f"choose at most {self.samples}"
            )

    def __len__(self) -> int:
        return (self.samples + self.batch_size - 1) // self.batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        order = torch.arange(self.samples)
        if self.shuffle:
            order = torch.randperm(self.samples, generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch))
        chosen = [part for part in order[start * self.batch_size :].split(self.batch_size) if len(part)]
        if self._tensors:
            return (tuple(part[some] for part in self.source) for some in chosen)
        loader = DataLoader(
            _Epoch(self.source, self.seed, epoch),
            batch_sampler=[some.tolist() for some in chosen],
            num_workers=self.workers,
            collate_fn=_collated,
            generator=torch.Generator(),  # else the loader draws from the global one, which the model shares
        )
        return _read(iter(loader))


def _read(batches: Iterator[Any]) -> Iterator[Batch]:
    with _deaths_noticed_late():
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as problem:
                if "DataLoader worker" not in str(problem) or is_out_of_memory(problem):
                    raise
                raise BadData(
                    f"data: a worker process has died ({problem}), as when memory runs out; set fewer workers, or "
                    "workers = 0 to see more"
                ) from problem
            if isinstance(batch, _Unreadable):
                raise batch.error()
            yield batch


@contextmanager
def _deaths_noticed_late() -> Iterator[None]:
    """The next batch says that a worker has died; torch's handler would say it in the middle of a step."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


@dataclass(frozen=True)
class _Unreadable:
    """What stands for a batch that could not be read, also between two processes."""

    reason: str
    trace: str

    def error(self) -> BadData:
        problem = BadData(f"data: {self.reason}; mend it, or leave it out")
        problem.add_note(self.trace)
        return problem


class _Epoch(Dataset):
    """A map-style data set in one epoch: each sample draws numbers of its own, whoever reads it and whenever."""

    def __init__(self, source: Any, seed: int, epoch: int):
        self.source, self.seed, self.epoch = source, seed, epoch

    def __getitems__(self, chosen: list[int]) -> list[Any] | _Unreadable:  # what DataLoader asks for a whole batch
        samples = []
        with untouched():
            for i in chosen:
                try:
                    samples.append(self._sample(i))
                except Exception as problem:
                    return _unreadable(f"sample {i}{_file(self.source, i)} cannot be read", problem)
        return samples

    def _sample(self, i: int) -> Any:
        words = np.random.SeedSequence((self.seed, self.epoch, i)).generate_state(1, np.uint64)
        reseed(int(words[0]) >> 1)
        return self.source[i]


def _collated(samples: list[Any] | _Unreadable) -> Batch | _Unreadable:
    if isinstance(samples, _Unreadable):
        return samples
    try:
        return default_collate(samples)
    except Exception as problem:
        kinds = [*dict.fromkeys(map(kind_of, samples))]
        unlike = f", as {kinds[0]} and {kinds[1]}" if len(kinds) > 1 else ""
        return _unreadable(f"samples do not fit together in a batch{unlike}", problem)


def _unreadable(what: str, problem: Exception) -> _Unreadable:
    if is_out_of_memory(problem):
        raise problem
    return _Unreadable(f"{what}: {_said(problem)}", format_exc())


def _said(problem: Exception) -> str:
    kind = "" if isinstance(problem, FieldguideError) else f"{type(problem).__name__}: "
    return kind + " ".join(str(problem).split())[:300]


def kind_of(sample: Any) -> str:
    """``"float32 (64,), int64 ()"``."""
    if isinstance(sample, Mapping):
        return ", ".join(f"{name} {kind_of(value)}" for name, value in sample.items())
    if isinstance(sample, tuple | list):
        return ", ".join(map(kind_of, sample))
    shape, dtype = (getattr(sample, name, None) for name in ("shape", "dtype"))
    return type(sample).__name__ if dtype is None else f"{str(dtype).removeprefix('torch.')} {tuple(shape or ())}"


def _file(source: Any, i: int) -> str:
    """The sample's file, where a data set keeps a list of them as those of torchvision do."""
    while isinstance(source, Subset):
        source, i = source.dataset, source.indices[i]
    match getattr(source, "samples", None):
        case [*rows] if i < len(rows) and isinstance(rows[i], Sequence) and isinstance(rows[i][0], str | Path):
            return f" ({rows[i][0]})"
    return ""


def readable(batches: Iterator[Batch], part: str, start: int = 0) -> Iterator[Batch]:
    """The batches of a part as they come, the first has the number ``start``.

    Raises:
        BadData: one cannot be read.
    """
    for number in count(start):
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as problem:
            if isinstance(problem, BadData) or is_out_of_memory(problem):
                raise
            what = f"data: batch {number} of {part} cannot be read: {_said(problem)}"
            raise BadData(f"{what}; mend it, or leave it out") from problem
        yield batch


def as_feed(source: Any, batch_size: int, *, seed: int = 0, shuffle: bool = False, workers: int = 0) -> Feed:
    """A feed as it is; a tuple of tensors or a map-style data set in batches.

    Raises:
        FieldguideError: ``source`` is none of these, or a training batch would be larger than it.
    """
    if isinstance(source, Feed):
        return source
    if isinstance(source, Sized) and hasattr(source, "__getitem__"):
        return IndexedFeed(source, batch_size, seed=seed, shuffle=shuffle, workers=workers)
    raise FieldguideError(
        f"data: cannot read batches from a {type(source).__name__}; give a tuple of tensors (inputs, targets), "
        "a map-style data set, or an object with batches(epoch, start) and len()"
    )


def placed(feed: Feed, device: torch.device, memory_format: str) -> Feed:
    """The feed with its batches on ``device`` and their images (4-D tensors) in ``memory_format``."""
    if device.type == "cpu" and memory_format == "contiguous":
        return feed
    return _Placed(feed, device, getattr(torch, {"contiguous": "preserve_format"}.get(memory_format, memory_format)))


class _Placed:
    def __init__(self, feed: Feed, device: torch.device, memory_format: torch.memory_format):
        self.feed, self.device, self.memory_format = feed, device, memory_format

    def __len__(self) -> int:
        return len(self.feed)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return map(self._place, self.feed.batches(epoch, start))

    def _place(self, batch: Batch) -> Batch:
        if isinstance(batch, Tensor):
            memory_format = self.memory_format if batch.ndim == 4 else torch.preserve_format
            return batch.to(self.device, non_blocking=True, memory_format=memory_format)
        if isinstance(batch, dict):
            return {key: self._place(value) for key, value in batch.items()}
        if isinstance(batch, tuple | list):
            return type(batch)(map(self._place, batch))
        return batch
