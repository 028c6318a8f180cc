"""Does the loss grow with the batch? The loss of a batch over the mean of its halves': 1 for a mean, 2 for a sum."""

import math
from typing import Any

import torch
from torch import Tensor

from fieldguide.doctor.preflight.twin import Twin, cut, size
from fieldguide.doctor.records import Test


@torch.no_grad()
def loss_scale(twin: Twin) -> Test:
    batch = twin.batches[0]
    if any(_is_number(value) for value in (*batch.args, *batch.kwargs.values())):
        return {"ok": None, "says": "not judged: the network is given a number, perhaps that of its samples"}
    n = size(batch) // 2
    whole = twin.loss(batch).item()
    halves = [twin.loss(cut(batch, part)).item() for part in (slice(0, n), slice(n, 2 * n))]
    half = sum(halves) / 2
    if n < 2 or not half or not math.isfinite(whole / half):
        return {"ok": None, "says": "the halves of the batch have no loss"}
    growth = whole / half
    if batch.averaged:
        return {"ok": True, "figure": growth, "says": "the sum is divided by its number of terms"}
    return {
        "ok": growth < 1.5,
        "figure": growth,
        "says": f"the loss of a batch is {growth:.2f} times that of its halves",
    }


def _is_number(value: Any) -> bool:
    """As newer trainers give one to a network that makes its own loss, which is then a sum over so many terms."""
    single = value.ndim == 0 if isinstance(value, Tensor) else isinstance(value, int | float)
    return single and not isinstance(value, bool)
