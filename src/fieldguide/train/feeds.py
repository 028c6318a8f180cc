"""Anything that gives batches, seen as one kind of feed: an order that depends on (seed, epoch, position) only."""

from collections.abc import Iterator, Sized
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import default_collate

from fieldguide.errors import FieldguideError
from fieldguide.objectives.phase import Batch


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

    Every epoch has its own order, drawn from (seed, epoch). A data set that itself draws random numbers is seeded anew
    by torch's global generator, which a checkpoint restores; tensors are simply indexed.
    """

    def __init__(self, source: Any, batch_size: int, *, seed: int, shuffle: bool):
        self.source, self.batch_size, self.seed, self.shuffle = source, batch_size, seed, shuffle
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
        for chosen in order[start * self.batch_size :].split(self.batch_size):
            if len(chosen):
                yield self._read(chosen)

    def _read(self, chosen: Tensor) -> Batch:
        if self._tensors:
            return tuple(part[chosen] for part in self.source)
        return default_collate([self.source[i] for i in chosen.tolist()])


def as_feed(source: Any, batch_size: int, *, seed: int = 0, shuffle: bool = False) -> Feed:
    """A feed as it is; a tuple of tensors or a map-style data set in batches.

    Raises:
        FieldguideError: ``source`` is none of these, or a training batch would be larger than it.
    """
    if isinstance(source, Feed):
        return source
    if isinstance(source, Sized) and hasattr(source, "__getitem__"):
        return IndexedFeed(source, batch_size, seed=seed, shuffle=shuffle)
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
