"""Token sequences of unequal length as batches: those of like length together, so that little is padding.

Legend: b batch, n tokens of the longest sequence in the batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain
from math import ceil
from typing import Any, Literal

import torch

from fieldguide.data.feed import BatchSettings, stream
from fieldguide.data.tokenizer import Tokenizer, row_of
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Bool, Int, Tensor

Sample = tuple[Any, ...]
"""One token list or several (source and answer), then perhaps a class number."""
OnLong = Literal["stop", "cut"]
"""What happens to a text longer than a model reads."""

POOL = 50
"""Batches whose samples are sorted together (the order is random beyond that)."""


class _Rows:
    """Sequences laid end to end, read as padded batches."""

    def __init__(self, rows: Sequence[Sequence[int]], pad: int):
        self.lengths = torch.tensor([len(row) for row in rows])
        if not bool(self.lengths.all()):
            raise FieldguideError(f"sample {int(self.lengths.argmin())} has no tokens; leave it out")
        self.starts = torch.tensor([0, *accumulate(len(row) for row in rows)])[:-1]
        self.tokens = row_of(chain.from_iterable(rows))
        self.pad = pad

    def read(self, chosen: Int[Tensor, " b"]) -> tuple[Int[Tensor, "b n"], Bool[Tensor, "b n"]]:
        lengths = self.lengths[chosen, None]
        places = torch.arange(int(lengths.max()))
        keep = places < lengths
        tokens = self.tokens[(self.starts[chosen, None] + places).clamp_max(len(self.tokens) - 1)]
        return tokens.masked_fill(~keep, self.pad), keep


class Buckets:
    """Batches ``(tokens (b, n), …, keep (b, n), …[, labels (b,)])`` of samples of unequal length, padded on the right.

    A sample is a tuple of as many token lists as ``pad`` has numbers, and perhaps a class number. With one list a batch
    is ``(tokens, keep)``, with a class ``(tokens, keep, labels)``, with two ``(source, answer, source_keep,
    answer_keep)``, as the objectives read them.

    An epoch shuffles the samples, sorts them by length within pools of ``POOL`` batches and shuffles the batches. The
    order depends on (seed, epoch) only, so a run resumes bit for bit; ``shuffle=False`` keeps the order given.

    Raises ``FieldguideError`` for no samples, a sample without tokens, and a training batch larger than the data.
    """

    def __init__(
        self, samples: Sequence[Sample], batch_size: int, *, seed: int = 0, shuffle: bool = True, pad: Sequence[int]
    ):
        if batch_size < 1:
            raise FieldguideError(f"batch_size is {batch_size}; choose at least 1")
        if not samples:
            raise FieldguideError("no samples to make batches of")
        if shuffle and batch_size > len(samples):
            raise FieldguideError(
                f"batch_size {batch_size} is larger than the training part ({len(samples)} samples); "
                f"choose at most {len(samples)}"
            )
        columns = list(zip(*samples, strict=True))
        self.rows = [_Rows(column, number) for column, number in zip(columns, pad, strict=False)]
        self.labels = [torch.tensor(column) for column in columns[len(pad) :]]
        self.samples, self.batch_size, self.seed, self.shuffle = len(samples), batch_size, seed, shuffle

    def __len__(self) -> int:
        """Batches in an epoch; one of them may be smaller."""
        return ceil(self.samples / self.batch_size)

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """The batches from number ``start`` of an epoch; equal arguments give equal batches."""
        return map(self._read, self._order(epoch)[start:])

    def _read(self, chosen: Int[Tensor, " b"]) -> tuple[Tensor, ...]:
        tokens, keep = zip(*(rows.read(chosen) for rows in self.rows), strict=True)
        return (*tokens, *keep, *(labels[chosen] for labels in self.labels))

    def _order(self, epoch: int) -> list[Int[Tensor, " b"]]:
        if not self.shuffle:
            return list(torch.arange(self.samples).split(self.batch_size))
        generator = stream(self.seed, epoch)
        pools = torch.randperm(self.samples, generator=generator).split(POOL * self.batch_size)
        parts = [part for pool in pools for part in self._sorted(pool).split(self.batch_size)]
        return [parts[i] for i in torch.randperm(len(parts), generator=generator).tolist()]

    def _sorted(self, pool: Int[Tensor, " p"]) -> Int[Tensor, " p"]:
        for rows in reversed(self.rows):
            pool = pool[rows.lengths[pool].argsort(stable=True)]
        return pool


class Sequences:
    """Tokenised samples in three parts, for ``fit``."""

    def __init__(self, name: str, parts: Mapping[str, Sequence[Sample]], pad: Sequence[int], fingerprint: str):
        self.name, self.pad, self.fingerprint = name, pad, fingerprint
        self.train, self.val, self.test = parts["train"], parts["val"], parts["test"]

    def feeds(self, recipe: BatchSettings) -> tuple[Buckets, Buckets, Buckets]:
        """Batches for training (shuffled), validation and test."""
        train = Buckets(self.train, recipe.batch_size, seed=recipe.seed, pad=self.pad)
        val, test = (Buckets(part, recipe.batch_size, shuffle=False, pad=self.pad) for part in (self.val, self.test))
        return train, val, test


def encoded(
    texts: Sequence[str], names: Sequence[str], tokenizer: Tokenizer, max_len: int | None, on_long: OnLong
) -> list[list[int]]:
    """Each text as an encoder reads it: its tokens, with start and end where the tokenizer has them.

    ``on_long="cut"`` leaves out what is beyond ``max_len``. Raises ``FieldguideError`` as ``require_length`` otherwise.
    """
    rows = [tokenizer.encode(text) for text in texts]
    if max_len is not None and on_long == "cut":
        rows = [row[: require_room(tokenizer, max_len)] for row in rows]
    framed = [tokenizer.frame(row) for row in rows]
    require_length(framed, names, max_len)
    return framed


def require_room(tokenizer: Tokenizer, max_len: int) -> int:
    """How many tokens of a text fit between start and end."""
    room = max_len - len(tokenizer.frame([]))
    if room < 1:
        raise FieldguideError(f"max_len is {max_len}; start and end leave no room for a token, choose a larger one")
    return room


def require_length(rows: Sequence[Sequence[int]], names: Sequence[str], max_len: int | None) -> None:
    """Raises ``FieldguideError`` for the first sequence that has no tokens, or more than ``max_len``."""
    for row, name in zip(rows, names, strict=True):
        if not row:
            raise FieldguideError(f"{name} has no tokens; leave it out")
        if max_len is not None and len(row) > max_len:
            count = sum(len(other) > max_len for other in rows)
            others = f" (and {count - 1} more are too long)" if count > 1 else ""
            raise FieldguideError(
                f"{name} has {len(row)} tokens, but the model reads {max_len}{others}; choose a larger max_len, "
                'cut what is beyond with on_long="cut" (--on-long cut), or give shorter texts'
            )
