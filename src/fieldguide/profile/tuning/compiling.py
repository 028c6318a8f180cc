"""``torch.compile``: one program for the whole network, made while someone waits, so the waiting is bounded."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fieldguide.profile.tuning.candidate import Arguments, Candidate, Choice, Subject
from fieldguide.profile.tuning.packing import PackedWeights


@dataclass(frozen=True)
class Compiled(Candidate):
    """Operations fused and laid out by PyTorch's compiler; on a processor with the weights packed into the program."""

    graphs: bool = False
    """Replay all kernels as one CUDA graph, which spares the launches."""

    def __str__(self) -> str:
        return "compiled, one graph" if self.graphs else "compiled"

    def refusal(self, subject: Subject, chosen: Choice) -> str | None:
        return "for NVIDIA's accelerators" if self.graphs and subject.device.type != "cuda" else None

    def after(self, chosen: Choice) -> Choice:
        return (*(setting for setting in chosen if not isinstance(setting, PackedWeights)), self)

    def apply(self, model: nn.Module, arguments: Arguments) -> nn.Module:
        freezing = not torch.is_grad_enabled() and all(x.device.type == "cpu" for x in arguments)
        options: dict[str, Any] = {"freezing": True} if freezing else {}
        if self.graphs:
            return _Kept(torch.compile(model, options={"triton.cudagraphs": True}))
        return torch.compile(model, options=options)  # pyright: ignore[reportReturnType]


class _Kept(nn.Module):
    """Gives copies: the next replay of a graph overwrites what the last one gave."""

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def forward(self, *arguments: Any) -> Any:
        return tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, self.network(*arguments))


class OutOfTime(BaseException):
    """The compiler took too long. No Exception, which the compiler would take for its own."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raises OutOfTime inside the ``with`` when so many seconds are over; not in other threads, which get no signal."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise OutOfTime

    handler = signal.signal(signal.SIGALRM, stop) or signal.SIG_DFL
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)  # of someone else
