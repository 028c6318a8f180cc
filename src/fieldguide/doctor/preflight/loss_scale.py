"""Does the loss grow with the batch? The loss of a batch over the mean of its halves': 1 for a mean, 2 for a sum."""

import math

import torch

from fieldguide.doctor.preflight.twin import Twin, cut
from fieldguide.doctor.records import Test


@torch.no_grad()
def loss_scale(twin: Twin) -> Test:
    batch, replay = twin.batch, twin.replay
    n = len(batch.target) // 2
    whole = replay.loss(twin.model, batch).item()
    halves = [replay.loss(twin.model, cut(batch, part)).item() for part in (slice(0, n), slice(n, 2 * n))]
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
