"""What this machine can do at most, measured on the spot: arithmetic, memory bandwidth, launches of operations.

Williams, Waterman & Patterson 2009, "Roofline: an insightful visual performance model", with a third roof: a launch.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F

from fieldguide.profile.clock import synchronize

BYTES = (2**18, 2**21, 2**24, 2**27)
"""Sizes whose copies are timed: from what fits any cache to what fits none."""

LAUNCHES = 200


@dataclass(frozen=True)
class Machine:
    """Peaks of one device for one type of numbers and one count of threads."""

    device: str
    dtype: str
    threads: int
    flops: float
    """Operations a second: the best of a large matrix product and a convolution."""
    bandwidths: tuple[float, ...]
    """Bytes a second, read and written, of copies that move ``BYTES``."""
    launch: float
    """Seconds that an operation costs which computes almost nothing."""

    @property
    def overlaps(self) -> bool:
        """Whether operations are launched while others still compute."""
        return self.device != "cpu"

    def bandwidth(self, moved: int) -> float:
        """Bytes a second for an operation that moves so many: between caches and memory, the faster of the two."""
        return self.bandwidths[min(bisect_left(BYTES, moved), len(BYTES) - 1)]


def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """Short calibrations, about a second; remembered for this process."""
    return _measure(device, dtype, torch.get_num_threads())


@lru_cache(maxsize=16)
def _measure(device: torch.device, dtype: torch.dtype, threads: int) -> Machine:
    large = device.type != "cpu"
    n = 8192 if large else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    x = torch.randn(64 if large else 8, 128, 28, 28, device=device).to(dtype)
    w = torch.randn(128, 128, 3, 3, device=device).to(dtype)
    product = 2 * n**3 / _best(lambda: a @ b, device)
    convolution = 2 * x.numel() * 128 * 9 / _best(lambda: F.conv2d(x, w, padding=1), device)
    with torch.no_grad():
        launch = _best(_launches(device), device) / LAUNCHES
        bandwidths = tuple(_copies(size // 2, device) for size in BYTES)
    # A larger copy is never the faster one; where it seems so, noise has slowed the smaller.
    steady = tuple(max(bandwidths[place:]) for place in range(len(bandwidths)))
    return Machine(device.type, str(dtype).removeprefix("torch."), threads, max(product, convolution), steady, launch)


def _launches(device: torch.device) -> Callable[[], object]:
    """Many operations on one number each, in a row, so that an accelerator's launches are not hidden by one wait."""
    dots = [torch.ones(1, device=device) for _ in range(LAUNCHES)]
    if device.type == "cpu":
        add: Any = torch._foreach_add_  # pyright: ignore[reportPrivateImportUsage]
        return lambda: add(dots, 1)  # one after the other, without Python between them
    return lambda: [dot.add_(1) for dot in dots]


def _copies(size: int, device: torch.device) -> float:
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size / _best(lambda: target.copy_(source), device)


def _best(run: Callable[[], object], device: torch.device, rounds: int = 7) -> float:
    """A peak is what the machine can do, so the best of a few rounds and not the median."""
    seconds = []
    for _ in range(rounds + 1):
        started = perf_counter()
        run()
        synchronize(device)
        seconds.append(perf_counter() - started)
    return min(seconds[1:])
