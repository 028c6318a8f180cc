"""label_permutation: are the real labels easier to learn than the same labels in another order?

Two copies with new initial values learn a few batches for as many steps, one of them with targets that were permuted
among the samples (Zhang et al. 2017, "Understanding Deep Learning Requires Rethinking Generalization", §2.1: real
labels are learned faster). When they go alike, inputs and labels have nothing to do with one another.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from fieldguide.doctor.facts import useless
from fieldguide.doctor.history import History
from fieldguide.doctor.probes.fork import Fork, end
from fieldguide.doctor.probes.suspicion import Bench

STEPS = 240


def wanted(history: History) -> bool:
    return history.step >= 50 and (useless(history, 3) or history.failing is not None)


def run(bench: Bench) -> dict[str, float]:
    start, real = _learned(bench, lambda batch: batch)
    _, permuted = _learned(bench, permute)
    return {"start": start, "real": real, "permuted": permuted}


def _learned(bench: Bench, change: Any) -> tuple[float, float]:
    torch.manual_seed(0)
    fork = Fork(bench.replay, rate=5e-3).afresh().calm()
    batches = [change(batch) for batch in fork.batches]
    losses = fork.learn(STEPS, batches)
    return losses[0], end(losses)


def permute(batch: Any) -> Any:
    """The batch with its targets given to other samples."""
    target = batch.target
    if not isinstance(target, Tensor) or target.ndim == 0 or len(target) < 2:
        raise LookupError("the loss has no target that could be permuted")
    return dataclasses.replace(batch, target=target[torch.randperm(len(target))])
