"""Batches of a split, in an order that needs no memory: it depends on (seed, epoch, position) and nothing else."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import blake2b
from math import ceil
from struct import pack
from typing import Protocol, runtime_checkable

import torch

from fieldguide.data.pixels import InMemory
from fieldguide.data.splits import Split
from fieldguide.data.transforms import AugmentSettings, Transform
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Int, Tensor

_AHEAD = 2
"""Batches prepared while the current one is used, when reading takes time."""


@runtime_checkable
class BatchSettings(Protocol):
    """The numbers of ``fieldguide.Recipe()`` that batches follow from; anything with these fields will do."""

    @property
    def batch_size(self) -> int: ...
    @property
    def seed(self) -> int: ...


def stream(*place: int) -> torch.Generator:
    """A generator for one place, for example (seed, epoch, batch): equal places, equal numbers."""
    digest = blake2b(pack(f"<{len(place)}q", *place), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


class Feed:
    """Normalised float batches of a split, epoch after epoch.

    ``mean`` and ``std`` are per channel in 0–1 units. ``augment`` (``Recipe().augment`` or anything with its fields)
    draws from a generator of its own for each (seed, epoch, batch), and the order of an epoch from one for (seed,
    epoch), so a run that stops anywhere resumes bit for bit from the two numbers (epoch, position); torch's global
    generators are neither read nor moved. The last batch may be smaller; no sample is left out.

    Raises ``FieldguideError`` when a shuffled (training) batch would be larger than the split; without shuffling
    (evaluation) one smaller batch is given.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int = 0,
        mean: Sequence[float],
        std: Sequence[float],
        augment: AugmentSettings | None = None,
        shuffle: bool = True,
    ):
        if batch_size < 1:
            raise FieldguideError(f"batch_size is {batch_size}; choose at least 1")
        if shuffle and batch_size > len(split):
            raise FieldguideError(
                f"batch_size {batch_size} is larger than the training part ({len(split)} samples); "
                f"choose at most {len(split)}"
            )
        self.split, self.batch_size, self.seed, self.shuffle = split, batch_size, seed, shuffle
        self.transform = Transform(mean, std, len(split.classes), augment)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return ceil(len(self.split) / self.batch_size)

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Float[Tensor, "b c h w"], Tensor]]:
        """(inputs, targets) of the batches ``start``, ``start + 1``, … of an epoch; the tail of ``batches(epoch)``.

        Targets are class numbers (b,), or shares of the classes (b, num_classes) under mixup or cutmix.
        """
        order = self._order(epoch).split(self.batch_size)
        if isinstance(self.split.pixels, InMemory):
            return (self._batch(order[i], epoch, i) for i in range(start, len(order)))
        return self._prefetched(order, epoch, start)

    def _order(self, epoch: int) -> Int[Tensor, " n"]:
        if not self.shuffle:
            return torch.arange(len(self.split))
        return torch.randperm(len(self.split), generator=stream(self.seed, epoch))

    def _batch(self, indices: Int[Tensor, " b"], epoch: int, i: int) -> tuple[Float[Tensor, "b c h w"], Tensor]:
        return self.transform(*self.split.batch(indices), stream(self.seed, epoch, i))

    def _prefetched(
        self, order: Sequence[Tensor], epoch: int, start: int
    ) -> Iterator[tuple[Float[Tensor, "b c h w"], Tensor]]:
        with ThreadPoolExecutor(1, thread_name_prefix="feed") as worker:
            waiting: deque[Future[tuple[Tensor, Tensor]]] = deque()
            for i in range(start, len(order)):
                waiting.append(worker.submit(self._batch, order[i], epoch, i))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
