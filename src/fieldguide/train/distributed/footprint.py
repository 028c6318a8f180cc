"""What each of many processes keeps between steps, by arithmetic alone: no process, no device, no weights needed."""

from dataclasses import dataclass
from math import prod

from torch import nn

from fieldguide.errors import unknown
from fieldguide.train.distributed.tensor import Plan, plan_for

_KEPT = {"adamw": (2, 1), "adam": (2, 1), "radam": (2, 1), "nadam": (2, 2), "rmsprop": (2, 1), "sgd": (1, 0)}
"""What an optimizer keeps for a parameter: tensors of its shape, and single numbers of 4 bytes."""


@dataclass(frozen=True)
class Footprint:
    """Bytes in one process."""

    parameters: int
    gradients: int
    optimizer: int
    """Its moments and counters, with momentum where the optimizer has the choice."""

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer


def per_rank_bytes(model: nn.Module, strategy: str, size: int, optimizer: str = "adamw", rank: int = 0) -> Footprint:
    """What one of ``size`` processes owns, exactly; activations, and what a strategy borrows for a moment, come on top.

    ``model`` may lie on the meta device. Rank 0 never owns less than another.

    Raises:
        FieldguideError: an unknown strategy or optimizer, or a model that the strategy cannot share.
    """
    if strategy not in ("ddp", "fsdp", "tensor"):
        raise unknown("strategy", strategy, ("ddp", "fsdp", "tensor"))
    if optimizer not in _KEPT:
        raise unknown("optimizer", optimizer, _KEPT)
    plan = plan_for(model, size) if strategy == "tensor" else {}
    moments, counters = _KEPT[optimizer]
    parameters = gradients = kept = 0
    for name, parameter in model.named_parameters():
        own = _numbers([*parameter.shape], strategy, size, rank, plan, name) * parameter.itemsize
        parameters += own
        if parameter.requires_grad:
            gradients += own
            kept += moments * own + 4 * counters
    return Footprint(parameters, gradients, kept)


def _numbers(shape: list[int], strategy: str, size: int, rank: int, plan: Plan, name: str) -> int:
    if strategy == "fsdp":
        rows = -(-shape[0] // size)
        return min(max(shape[0] - rank * rows, 0), rows) * prod(shape[1:])
    return prod(shape) // (size if name in plan else 1)
