"""zero_input: does the network learn anything from its input?

Two copies learn the same batches for as many steps of Adam; one of them is shown zeros. When
it does as well as the other, what was learned is the share of the targets alone.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from fieldguide.doctor.history import History
from fieldguide.doctor.probes.fork import Fork, end
from fieldguide.doctor.probes.suspicion import Bench

STEPS = 60


def wanted(history: History) -> bool:
    return history.step >= 50 and history.failing is not None


def run(bench: Bench) -> dict[str, float]:
    real, zero = Fork(bench.replay), Fork(bench.replay)
    zero.change = zeroed
    return {"real": end(real.learn(STEPS)), "zero": end(zero.learn(STEPS))}


def zeroed(batch: Any) -> Any:
    """The batch with nothing to see in it; the loss's target stays as it was."""

    def nothing(value: Any) -> Any:
        return torch.zeros_like(value) if isinstance(value, Tensor) else value

    kwargs = {name: nothing(value) for name, value in batch.kwargs.items()}
    return dataclasses.replace(batch, args=tuple(map(nothing, batch.args)), kwargs=kwargs)
