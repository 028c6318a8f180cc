"""What is not the network's own: threads, and which of PyTorch's kernels computes attention."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from fieldguide.profile.tuning.candidate import Candidate, Choice, Subject


@dataclass(frozen=True)
class Threads(Candidate):
    """So many threads for each operation; small networks lose more by sharing work out than they gain."""

    count: int

    def __str__(self) -> str:
        return f"{self.count} threads" if self.count > 1 else "1 thread"

    def refusal(self, subject: Subject, chosen: Choice) -> str | None:
        if subject.device.type != "cpu":
            return "for processors"
        return "chosen already" if any(isinstance(setting, Threads) for setting in chosen) else None

    def around(self) -> AbstractContextManager[None]:
        return threads(self.count)

    def recipe(self) -> Mapping[str, Any]:
        return {"threads": self.count}


def fewer_threads() -> tuple[Choice, ...]:
    """One, and half of those that there are."""
    most = torch.get_num_threads()
    return tuple((Threads(count),) for count in sorted({1, max(1, most // 2)}) if count < most)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Inside the ``with``, so many threads; then as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


@dataclass(frozen=True)
class AttentionKernel(Candidate):
    """The kernel that PyTorch's attention takes first, where it can; PyTorch's own order is not always the fastest."""

    kernel: str

    def __str__(self) -> str:
        return f"{self.kernel} attention"

    def refusal(self, subject: Subject, chosen: Choice) -> str | None:
        if subject.device.type != "cuda":
            return "PyTorch has one kernel for attention here"
        return None if _attends(subject) else "no attention by PyTorch's kernels"

    def around(self) -> AbstractContextManager[Any]:
        others = [backend for kernel, backend in KERNELS.items() if kernel != self.kernel]
        return sdpa_kernel([KERNELS[self.kernel], *others], set_priority=True)


class _Attending(TorchFunctionMode):
    """Notices whether attention is asked for."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= func is scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _attends(subject: Subject) -> bool:
    if any(isinstance(module, nn.MultiheadAttention) for module in subject.model.modules()):
        return True
    with _Attending() as mode:
        subject.model(*subject.arguments)
    return mode.seen
