"""Peak memory of a piece of work: the allocator's own account, at its highest moment and not at its end.

On an accelerator PyTorch keeps the peak. On a processor the profiler records every allocation and release together with
the allocator's running total; the peak is the highest of these. Work space that a library asks of the system itself
(threads of BLAS, some convolutions of oneDNN) goes through no allocator of PyTorch and is not seen.
"""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

# The recorder beneath the profiler announces every start and stop on stderr, unless told so before its first.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")


def peak_of(work: Callable[[], object], device: torch.device) -> int:
    """Bytes that the allocator had given out at most, above what was there before."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
        torch.accelerator.reset_peak_memory_stats(device)
        before = torch.accelerator.memory_allocated(device)
        work()
        torch.accelerator.synchronize(device)
        return torch.accelerator.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        work()
    recorded: Any = profiler.profiler
    events, changes = [*recorded.kineto_results.experimental_event_tree()], []
    while events:
        event = events.pop()
        events += event.children
        if event.tag == _EventType.Allocation:
            fields = event.extra_fields
            changes.append((event.start_time_ns, fields.total_allocated, fields.alloc_size))
    if not changes:
        return 0
    changes.sort()
    _, total, change = changes[0]
    return max(0, max(total for _, total, _ in changes) - (total - change))


def bytes_of(module: nn.Module) -> int:
    """Parameters and buffers; a storage that several share counts once."""
    tensors = (*module.parameters(), *module.buffers())
    return sum({x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in tensors}.values())
