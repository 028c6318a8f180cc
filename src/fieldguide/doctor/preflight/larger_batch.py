"""Would a larger batch cost anything? The time of a pass over eight times the samples, over that of the batch."""

import dataclasses
import math
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from fieldguide.doctor.preflight.twin import Twin, size
from fieldguide.doctor.records import Test

TIMES = 8
LIMIT = 1.25  # a device with nothing else to do takes 8, one that only waits for its orders 1
LONG = 0.02  # seconds of a pass that cannot be all overhead
MOST_BYTES = 4 << 20  # of a batch that is repeated
PASSES = 5  # of each, of which the fastest count
CLEAR = 2.0  # no further pass will say otherwise, where one is long


def larger_batch(twin: Twin) -> Test:
    batch = twin.batches[0]
    tensors = [value for value in (*batch.args, *batch.kwargs.values(), batch.target) if isinstance(value, Tensor)]
    n = size(batch)
    if sum(tensor.nbytes for tensor in tensors) > MOST_BYTES or (alone := _seconds(twin, batch)) > LONG:
        return {"ok": True, "says": f"{n} samples are work enough"}
    larger, together = _repeated(batch), math.inf
    for _ in range(PASSES):
        alone, together = min(alone, _seconds(twin, batch)), min(together, _seconds(twin, larger))
        if alone > LONG / 10 and together > CLEAR * alone:  # of shorter ones, the first prepares kernels
            break
    return {
        "ok": together > LIMIT * alone,
        "figure": together / alone,
        "says": f"{TIMES * n} samples take {together / alone:.1f} times as long as {n}",
    }


def _seconds(twin: Twin, batch: Any) -> float:
    """Of a pass forward and backward."""
    started = perf_counter()
    twin.loss(batch).backward()
    twin.model.zero_grad()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return perf_counter() - started


def _repeated(batch: Any) -> Any:
    def repeat(value: Any) -> Any:
        return torch.cat([value] * TIMES) if isinstance(value, Tensor) and value.ndim else value

    return dataclasses.replace(
        batch,
        args=tuple(map(repeat, batch.args)),
        kwargs={name: repeat(value) for name, value in batch.kwargs.items()},
        target=repeat(batch.target),
    )
