"""Does the same training step from the same state give the same loss and gradients, bit for bit?

Every generator of Python, NumPy and torch stands where it stood when the step is repeated. Networks with a generator of
their own, which would go on instead, are left out.
"""

import copy

import torch
from torch import Tensor

from fieldguide.doctor.preflight.batches import generators
from fieldguide.doctor.preflight.random_state import random_state_kept
from fieldguide.doctor.preflight.twin import Twin
from fieldguide.doctor.records import Test


def repeatable(twin: Twin) -> Test:
    if generators(*twin.model.modules()):
        return {"ok": None, "says": "the network has a generator of its own"}
    first, second = _step(twin), _step(twin)
    if not bool(first.isfinite().all()):
        return {"ok": None, "says": "the loss or a gradient is not finite"}
    off = ((first - second).abs() / first.abs().clamp_min(1e-12)).max().item()
    if off == 0:
        return {"ok": True, "figure": 0.0, "says": "a step that is repeated gives the same loss and gradients"}
    return {"ok": False, "figure": off, "says": f"a step from the same state gives a loss or gradients {off:.1g} apart"}


def _step(twin: Twin) -> Tensor:
    """The loss and the norm of every gradient."""
    again = copy.copy(twin)
    again.model = copy.deepcopy(twin.model).train(twin.replay.model.training)
    with random_state_kept():
        loss = again.loss(again.batch)
        trained = [parameter for parameter in again.model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, trained, allow_unused=True)
    return torch.stack([loss.detach(), *(g.norm() for g in gradients if g is not None)]).double()
