"""A long text as batches: windows of equal length, which every epoch cuts at other places."""

from collections.abc import Iterator

import torch

from fieldguide.data.feed import stream
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Int, Tensor


class TokenWindows:
    """Batches ``(tokens (b, length + 1),)`` of a text's tokens, for ``objectives.NextToken``.

    An epoch reads the text once: windows that lie side by side, in random order, from a random start. Both depend on
    (seed, epoch) only, so a run resumes bit for bit. ``shuffle=False`` reads all of it in order, for evaluation.
    Neighbouring windows share one token: the last of one is the first of the next.

    Raises ``FieldguideError`` for a text shorter than a window, or than a batch of them.
    """

    def __init__(self, tokens: Tensor, length: int, batch_size: int, *, seed: int = 0, shuffle: bool = True):
        if tokens.ndim != 1 or length < 1 or batch_size < 1:
            raise FieldguideError(
                f"TokenWindows takes one row of tokens, a length and a batch size of at least 1, got "
                f"{tuple(tokens.shape)}, {length} and {batch_size}"
            )
        self.windows = (len(tokens) - 1) // length - shuffle  # a random start costs up to one window
        if len(tokens) < 2 or (shuffle and self.windows < batch_size):
            raise FieldguideError(
                f"a text of {len(tokens)} tokens is too short for a batch of {batch_size} windows of {length}; take "
                "more text, shorter windows or a smaller batch"
            )
        self.tokens, self.length, self.batch_size = tokens, length, batch_size
        self.seed, self.shuffle = seed, shuffle

    def __len__(self) -> int:
        """Batches in an epoch; the last may be smaller."""
        return len(self._parts(0))

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Int[Tensor, "b n"]]]:
        """The batches from number ``start`` of an epoch; equal arguments give equal batches."""
        for first in self._parts(epoch)[start:]:
            length = min(self.length, len(self.tokens) - 1 - int(first[0])) if len(first) == 1 else self.length
            yield (self.tokens[first[:, None] + torch.arange(length + 1)],)

    def _parts(self, epoch: int) -> list[Int[Tensor, " b"]]:
        """Where the windows of each batch begin; in evaluation a shorter rest is a batch of its own."""
        if self.shuffle:
            generator = stream(self.seed, epoch)
            begin = int(torch.randint(self.length, (), generator=generator))
            starts = begin + self.length * torch.randperm(self.windows, generator=generator)
            return list(starts.split(self.batch_size))
        whole, end = self.length * torch.arange(self.windows), self.length * self.windows
        rest = [torch.tensor([end])] if end < len(self.tokens) - 1 else []
        return [*(part for part in whole.split(self.batch_size) if len(part)), *rest]
