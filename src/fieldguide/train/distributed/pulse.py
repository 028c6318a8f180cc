"""Signs of life: each process shows its step every moment, and sees when another one no longer does."""

import os
import threading
from contextlib import suppress
from time import monotonic, sleep
from typing import NamedTuple

from torch.distributed.distributed_c10d import Store

from fieldguide.errors import FieldguideError

EXIT_CODE = 2
RESUME = "the last checkpoint is good: go on with --resume"
_AT_WORK, _WAITED, _DONE = "at-work", "waited", "done"
LOST = "fieldguide/pulse/lost"
"""Where it stands in the store that the job is over, and why."""
_NO_STORE = "the process that all ranks report to (torchrun, or rank 0) is gone"


class RankLost(FieldguideError):
    """Another process of the job died, hangs, or does not answer."""


class Sign(NamedTuple):
    """What a process shows of itself."""

    count: int
    step: int
    state: str


class Pulse:
    """``with Pulse(…) as pulse``: a thread writes ``pulse.step`` with a running number to the job's store.

    It reads those of the others too. One that stands still for ``timeout`` seconds (killed, stopped, its machine gone)
    ends this process with a line that names the rank and its last step, wherever the main thread waits meanwhile: no
    collective needs to notice, and the first to see it tells the others. Checkpoints are whole or not there, so
    nothing is lost but the steps since the last.
    """

    def __init__(self, store: Store, rank: int, size: int, timeout: float):
        self.store, self.rank, self.size, self.timeout = store.clone(), rank, size, timeout
        self.interval = min(max(timeout / 10, 0.05), 2.0)
        self.step = 0
        self._count, self._state = 0, _AT_WORK
        self._seen: dict[int, tuple[Sign, float]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="pulse", daemon=True)

    def __enter__(self) -> "Pulse":
        self._show()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join(2 * self.interval)
        if exception[0] is None:
            self._state = _DONE
            self._show()

    def give_up(self, why: str) -> None:
        """Ends the other processes with these words; this one is to say them itself."""
        self._over.set()
        with suppress(RuntimeError):
            self._tell(why)

    def lost(self, waited: bool = False) -> str | None:
        """Who shows no sign of life right now, in words; None when all do.

        If this process has ``waited`` in vain, also who lives and does not do its part: all the others have, too.
        """
        try:
            why = self._told() or self._missing(waited)
        except RuntimeError:
            self._over.set()
            return self._alone()
        if why:
            self._over.set()  # the main thread says it
            self._tell(why)
        return why

    def _missing(self, waited: bool) -> str | None:
        self._state = _WAITED if waited else _AT_WORK
        before = self._others()
        sleep(3 * self.interval)
        others = {rank: sign for rank, sign in self._others().items() if sign.state != _DONE}
        for rank, sign in others.items():
            if sign == before[rank]:
                return self._gone(rank, sign.step)
        stuck = [rank for rank, sign in others.items() if sign.state == _AT_WORK]
        if not (waited and stuck):
            return None
        rank = min(stuck, key=lambda rank: others[rank].step)
        return f"rank {rank} lives and does not go on after step {others[rank].step}, for which the others wait"

    def _watch(self) -> None:
        seen = self._seen
        while not self._over.wait(self.interval):
            try:
                self._show()
                why, now = self._told(), self._others()
            except RuntimeError:
                return self._end(self._alone())
            for rank, sign in now.items():
                if rank not in seen or seen[rank][0] != sign or sign.state == _DONE:
                    seen[rank] = sign, monotonic()
                elif monotonic() - seen[rank][1] > self.timeout and not why:
                    why = self._gone(rank, sign.step, self.timeout)
                    self._tell(why)
            if why:
                return self._end(why)

    def _alone(self) -> str:
        """The store is gone, perhaps as its process has noticed the same silence first: who was silent longest."""
        old = [(at, rank) for rank, (_, at) in self._seen.items() if monotonic() - at > self.timeout / 2]
        return self._gone(min(old)[1], self._seen[min(old)[1]][0].step) if old else _NO_STORE

    def _told(self) -> str:
        """What another rank has found out first."""
        return self.store.get(LOST).decode() if self.store.check([LOST]) else ""

    def _tell(self, why: str) -> None:
        self.store.set(LOST, why)
        sleep(3 * self.interval)  # the store may live in this process: the others are to read it first

    def _show(self) -> None:
        self._count += 1
        self.store.set(f"fieldguide/pulse/{self.rank}", f"{self._count} {self.step} {self._state}")

    def _others(self) -> dict[int, Sign]:
        others = [rank for rank in range(self.size) if rank != self.rank]
        signs = self.store.multi_get([f"fieldguide/pulse/{rank}" for rank in others]) if others else []
        parts = (sign.decode().split() for sign in signs)
        return {rank: Sign(int(n), int(step), state) for rank, (n, step, state) in zip(others, parts, strict=True)}

    def _end(self, why: str) -> None:
        if not self._over.is_set():
            os.write(2, f"error: rank {self.rank}: {why}; {RESUME}\n".encode())
            os._exit(EXIT_CODE)

    def _gone(self, rank: int, step: int, seconds: float = 0.0) -> str:
        silent = f" for {seconds:g} seconds" if seconds else ""
        done = max(step, self.step)  # all take part in the end of every step, so who is gone has done as many as this
        return f"rank {rank} gave no sign of life{silent} after step {done}: it died, hangs or was stopped"
