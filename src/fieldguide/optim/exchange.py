"""Other weights in place of a model's own, for a while."""

from collections.abc import Iterator, Sequence
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
        if live:
            _foreach_copy_(list(live), list(others))
    try:
        yield
    finally:
        with torch.no_grad():
            if live:
                _foreach_copy_(list(live), kept)
