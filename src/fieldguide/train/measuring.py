"""What a trace measures besides the figures that a step has anyway: memory, and the gradient layer by layer."""

import resource
import sys
from collections.abc import Sequence

import torch
from torch import (
    _foreach_norm,  # pyright: ignore[reportPrivateImportUsage]
    nn,
)

_UNIT = 1 if sys.platform == "darwin" else 1024  # of what the system tells


def memory_of(device: torch.device) -> dict[str, int]:
    """Bytes, as ``trace.Sample`` names them: of this process, and on its CUDA device."""
    found = {"resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT}
    if device.type == "cuda":
        stats = torch.cuda.memory_stats_as_nested_dict(device)  # the flat one takes longer to flatten than to ask for
        found["device_bytes"] = stats["allocated_bytes"]["all"]["peak"]
        found["reserved_bytes"] = stats["reserved_bytes"]["all"]["current"]
    return found


def gradient_norms(model: nn.Module, parameters: Sequence[nn.Parameter]) -> dict[str, float]:
    """Euclidean norm of the gradient of every matrix or kernel among these parameters, in the order of the model.

    Biases and the scales of norms are left out: they lie at other sizes, and would hide how the norm goes with depth.
    """
    ours = {id(parameter) for parameter in parameters if parameter.ndim > 1}
    named = [(name.removesuffix(".weight"), p.grad) for name, p in model.named_parameters() if id(p) in ours]
    there = {name: gradient for name, gradient in named if gradient is not None}
    if not there:
        return {}
    norms = _foreach_norm([*there.values()])
    return dict(zip(there, torch.stack([norm.to(norms[0]) for norm in norms]).tolist(), strict=True))
