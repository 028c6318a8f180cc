"""Crews of threads in one process, for what may happen to a checkpoint that many write together."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import Tensor

from fieldguide.train.checkpoint import Crew, Slice


class Threads(Crew):
    """Members that meet at a barrier."""

    def __init__(self, rank: int, size: int, meeting: threading.Barrier, said: list[str]):
        super().__init__(rank, size)
        self.meeting, self.said = meeting, said

    def exchange(self, text: str) -> list[str]:
        self.said[self.rank] = text
        self.meeting.wait()
        said = [*self.said]
        self.meeting.wait()
        return said


def crew(size: int, patience: float = 60) -> list[Threads]:
    meeting, said = threading.Barrier(size, timeout=patience), [""] * size
    return [Threads(rank, size, meeting, said) for rank in range(size)]


def on_all(work: Callable[[Threads], Any], crew: Sequence[Threads]) -> list[Any]:
    """What each gets, or the error that it meets."""

    def one(member: Threads) -> Any:
        try:
            return work(member)
        except Exception as problem:
            return problem

    with ThreadPoolExecutor(len(crew)) as pool:
        return [*pool.map(one, crew)]


def part(whole: Tensor, axis: int, rank: int, size: int) -> Slice:
    """What one of ``size`` holds of a tensor that they share along an axis, as evenly as it goes."""
    length = whole.shape[axis]
    each = -(-length // size)
    start, stop = min(rank * each, length), min((rank + 1) * each, length)
    return Slice(whole.narrow(axis, start, stop - start), whole.shape, axis, start)
