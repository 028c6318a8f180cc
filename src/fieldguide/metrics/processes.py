"""What several processes have gathered, each of its share of the data."""

import torch
from torch import Tensor, distributed


def of_all_processes(tensor: Tensor) -> list[Tensor]:
    """The tensor of each process, in their order; of one shape, on the device of the process group.

    Without a process group it is this one alone.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, tensor.contiguous())
    return found
