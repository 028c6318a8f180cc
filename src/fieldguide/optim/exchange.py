"""Other weights in place of a model's own, for a while."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import (
    Tensor,
    _foreach_copy_,  # pyright: ignore[reportPrivateImportUsage]
)


@contextmanager
def exchanged(live: Sequence[Tensor], others: Sequence[Tensor]) -> Iterator[None]:
    """Gives the live tensors the others' values in a ``with`` block, then their own back, bit for bit."""
    with torch.no_grad():
        kept = [tensor.clone() for tensor in live]
        copy_all(live, others)
    try:
        yield
    finally:
        with torch.no_grad():
            copy_all(live, kept)


@torch.no_grad()
def copy_all(to: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    """Gives each tensor the values of its partner."""
    if targets := here(to):
        _foreach_copy_(targets, here(values))


def here(tensors: Iterable[Tensor]) -> list[Tensor]:
    """What of each tensor lies in this process: all of it, or the shard of a ``DTensor``, which shares its memory."""
    # Known by its method, as its module is slow to import.
    return [tensor.to_local() if hasattr(tensor, "to_local") else tensor for tensor in tensors]  # pyright: ignore
