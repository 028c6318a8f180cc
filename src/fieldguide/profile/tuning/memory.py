"""Memory: how much is free, and what a processor's allocator keeps for the next call instead of giving it back."""

import ctypes
import platform
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fieldguide.profile.tuning.candidate import Candidate, Choice, Subject

INFO = Path("/proc/meminfo")
TRIM, THRESHOLD, MAPPED = -1, -3, -4
"""Of ``mallopt`` (glibc's malloc.h): from how many free bytes memory is given back, from what size a block is a map of
its own, and how many may be."""
KEEP = {TRIM: 2**31 - 1, MAPPED: 0}
USUAL = {TRIM: 2**26, THRESHOLD: 2**25, MAPPED: 2**16}
"""What glibc comes to by itself once large blocks have been freed."""


def free_bytes(device: torch.device) -> float:
    """Memory that is there for the asking; infinite where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    lines = INFO.read_text().splitlines() if INFO.exists() else []
    return next((1024 * float(line.split()[1]) for line in lines if line.startswith("MemAvailable")), float("inf"))


def can_keep_memory() -> bool:
    return platform.libc_ver()[0] == "glibc"


def keep_memory(wanted: bool = True) -> None:
    """For the whole process: large blocks come from the heap, which does not shrink, so no page is fetched twice."""
    if can_keep_memory() and _state["kept"] != wanted:
        for parameter, value in (KEEP if wanted else USUAL).items():
            ctypes.CDLL(None).mallopt(parameter, value)
        _state["kept"] = wanted


_state = {"kept": False}


@contextmanager
def kept_memory(wanted: bool) -> Iterator[None]:
    """Inside the ``with``, freed memory is kept if that is wanted; then as before."""
    before = _state["kept"]
    keep_memory(wanted or before)
    try:
        yield
    finally:
        keep_memory(before)


@dataclass(frozen=True)
class KeptMemory(Candidate):
    """Of the whole process, and lasting: who gives memory back after each call has nothing of it in the next."""

    def __str__(self) -> str:
        return "kept memory"

    def refusal(self, subject: Subject, chosen: Choice) -> str | None:
        if subject.device.type != "cpu":
            return "PyTorch keeps an accelerator's memory by itself"
        return None if can_keep_memory() else "for glibc's allocator"

    def around(self) -> AbstractContextManager[None]:
        keep_memory()
        return nullcontext()

    def recipe(self) -> Mapping[str, Any]:
        return {"keep_memory": True}
