"""One training on many processes: joining them, and the ways they share it."""

from fieldguide.errors import unknown
from fieldguide.train.distributed.fsdp import FSDP
from fieldguide.train.distributed.group import Group, Place, device_of, joined
from fieldguide.train.distributed.pulse import RankLost
from fieldguide.train.distributed.replicas import DDP
from fieldguide.train.distributed.strategy import ALONE, Single, Strategy
from fieldguide.train.distributed.tensor import Tensors

__all__ = [
    "ALONE",
    "DDP",
    "FSDP",
    "Group",
    "Place",
    "RankLost",
    "Single",
    "Strategy",
    "Tensors",
    "build_strategy",
    "device_of",
    "joined",
]

STRATEGIES = {"ddp": DDP, "fsdp": FSDP, "tensor": Tensors}


def build_strategy(name: str, group: Group) -> Strategy:
    """The strategy of that name, ``ddp``, ``fsdp`` or ``tensor``, over the processes of a group.

    Raises:
        FieldguideError: another name.
    """
    if name not in STRATEGIES:
        raise unknown("strategy", name, STRATEGIES)
    return STRATEGIES[name](group)
