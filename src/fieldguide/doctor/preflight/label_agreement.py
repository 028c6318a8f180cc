"""Do similar inputs have the same label? Agreement of nearest neighbours against chance, in standard deviations."""

import math

import torch
from torch import Tensor

from fieldguide.doctor.preflight.twin import Twin
from fieldguide.doctor.records import Test


def label_agreement(twin: Twin) -> Test:
    place, first = twin.main_input()
    batches = [batch for batch in twin.batches if isinstance(batch.target, Tensor)]
    rows = [batch.args[place] if isinstance(place, int) else batch.kwargs[place] for batch in batches]
    if not first.is_floating_point() or any(
        len(x) != batch.target.numel() for x, batch in zip(rows, batches, strict=True)
    ):
        return {"ok": None, "says": "not one label for each sample"}
    x = torch.cat([row.flatten(1)[:, :: max(1, row[0].numel() // 2048)] for row in rows])[:1024].float()
    labels = torch.cat([batch.target.flatten() for batch in batches])[:1024]
    counts = labels.unique(return_counts=True)[1]
    if len(x) < 64 or not 2 <= len(counts) <= len(x) // 4:
        return {"ok": None, "says": "too few samples for their classes"}
    x = (x - x.mean(0)) / x.std(0).clamp(min=1e-6)
    distances = torch.cdist(x, x).fill_diagonal_(math.inf)
    agree = (labels[distances.argmin(1)] == labels).float().mean().item()
    chance = (counts / len(x)).square().sum().item()
    z = (agree - chance) / math.sqrt(chance * (1 - chance) / len(x))
    says = f"{agree:.0%} of {len(x)} samples have the label of their nearest neighbour, by chance {chance:.0%}"
    return {"ok": True if z > 4 else False if z < 2 else None, "figure": z, "says": says}
