"""What processes tell each other beside the training: through torchrun's store, so that any thread may."""

from time import monotonic, sleep

from torch.distributed.distributed_c10d import Store

from fieldguide.train.checkpoint import Crew
from fieldguide.train.distributed.pulse import LOST

_SHORTEST, _LONGEST = 0.001, 0.1
"""Seconds between two looks."""


class Meeting(Crew):
    """One save, or one search for a checkpoint, by all processes; no collective of the training is disturbed.

    Each meeting has a number of its own, so that a process that comes too late to one is not heard in the next.
    """

    def __init__(self, store: Store, rank: int, size: int, number: int, timeout: float):
        super().__init__(rank, size)
        self._store, self._number, self._timeout, self._round = store, number, timeout, 0

    def exchange(self, text: str) -> list[str]:
        keys = self._keys()
        self._store.set(keys[self.rank], text)
        self._wait(keys)
        said = [words.decode() for words in self._store.multi_get(keys)]
        if self._round:  # all have spoken anew, so all have read what was said before
            self._store.delete_key(self._keys(-1)[self.rank])
        self._round += 1
        return said

    def _wait(self, keys: list[str]) -> None:
        deadline, pause = monotonic() + self._timeout, _SHORTEST
        while not self._store.check(keys):
            if monotonic() > deadline or self._store.check([LOST]):
                missing = [str(rank) for rank, key in enumerate(keys) if not self._store.check([key])]
                raise RuntimeError(f"timeout while waiting for rank {', '.join(missing)}")
            sleep(pause)
            pause = min(1.5 * pause, _LONGEST)

    def _keys(self, offset: int = 0) -> list[str]:
        return [f"fieldguide/meeting/{self._number}/{self._round + offset}/{rank}" for rank in range(self.size)]
