"""How much of the memory that there is a training has taken."""

import os
import resource
import sys
from functools import cache
from pathlib import Path

import torch

_LIMITS = (resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)  # and where /proc/self/statm says what is used
_UNIT = 1 if sys.platform == "darwin" else 1024  # of what the system tells of a peak


def memory_share() -> float:
    """The peak over the total: of the accelerator where one is used, else of the process.

    A process may have the memory of the machine or container, and no more data or addresses than its own limits say.
    """
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / torch.cuda.mem_get_info()[1]
    share = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT / _memory()
    limits = [(resource.getrlimit(what)[0], place) for what, place in _LIMITS]
    if all(limit == resource.RLIM_INFINITY for limit, _ in limits):
        return share
    try:
        pages = Path("/proc/self/statm").read_bytes().split()
    except OSError:  # Linux alone tells
        return share
    sizes = [(int(pages[place]) * resource.getpagesize(), limit) for limit, place in limits]
    return max(share, *(size / limit for size, limit in sizes if limit != resource.RLIM_INFINITY))


@cache
def _memory() -> int:
    """Bytes that the machine has, or its container may use."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # of control groups, version 2 and 1
        try:
            sizes.append(int(Path("/sys/fs/cgroup", file).read_text()))
        except (OSError, ValueError):  # there is none, or it says "max"
            continue
    return min(sizes)
