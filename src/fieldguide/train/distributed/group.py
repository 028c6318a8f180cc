"""Joining the processes that ``torchrun`` started, and noticing the one that is gone."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from fieldguide.errors import FieldguideError
from fieldguide.train.distributed.meeting import Meeting
from fieldguide.train.distributed.pulse import RESUME, Pulse, RankLost

_START = 300.0
"""Seconds within which all processes have to come."""
_PATIENCE = 1.5
"""Of a process's time-out: a little longer, as the pulse is to speak first, which knows who is gone."""
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """One process among those of a job."""

    rank: int
    size: int
    local_rank: int
    """Among those of this machine."""

    @classmethod
    def found(cls, variables: Mapping[str, str] = os.environ) -> "Place | None":
        """What torchrun's variables say; None when it did not start this process.

        Raises:
            FieldguideError: some are missing, no numbers, or contradict each other.
        """
        missing = [name for name in _VARIABLES if not variables.get(name)]
        if "RANK" in missing and "WORLD_SIZE" in missing:
            return None
        if missing:
            raise FieldguideError(
                f"distributed: {', '.join(missing)} not set, though {_first_of(variables)} is; start the command with "
                "torchrun --nproc-per-node N -m fieldguide …, which sets them all"
            )
        rank, size, local_rank = (_number(variables, name) for name in _VARIABLES[:3])
        here = _number(variables, "LOCAL_WORLD_SIZE") if variables.get("LOCAL_WORLD_SIZE") else size
        if not (0 <= rank < size and 0 <= local_rank < here <= size and local_rank <= rank):
            raise FieldguideError(
                f"distributed: the variables contradict each other: RANK={rank}, WORLD_SIZE={size}, "
                f"LOCAL_RANK={local_rank}, LOCAL_WORLD_SIZE={here}; start the command with torchrun, which sets them"
            )
        return cls(rank, size, local_rank)


class Group:
    """The processes of a job, and what they tell each other."""

    def __init__(self, place: Place, device: torch.device, pulse: Pulse):
        self.rank, self.size, self.device, self.pulse = place.rank, place.size, device, pulse
        self._meetings = 0

    @property
    def leads(self) -> bool:
        """Whether this is the one process that writes and prints."""
        return self.rank == 0

    def gather(self, numbers: Sequence[float]) -> list[list[float]]:
        """The numbers of every rank, in their order: the same list on all."""
        own = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        everyone = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(everyone, own)
        return torch.stack(everyone).tolist()

    def meeting(self) -> Meeting:
        """The next one; all ranks hold the same ones in the same order."""
        self._meetings += 1
        pulse = self.pulse
        # As long as for a collective: the pulse speaks first.
        return Meeting(pulse.store.clone(), self.rank, self.size, self._meetings, _PATIENCE * pulse.timeout)

    def sum(self, tensor: Tensor) -> Tensor:
        """Over all ranks, in place."""
        dist.all_reduce(tensor)
        return tensor

    def first(self, make: Callable[[], str]) -> str:
        """What the leading process makes, on all ranks; a user's mistake that it meets is raised on all of them."""
        mistake, text = None, ""
        if self.leads:
            try:
                text = make()
            except FieldguideError as problem:
                mistake, text = problem, str(problem)
        said = text.encode()
        ((failed, length), *_) = self.gather([float(mistake is not None), float(len(said))])
        words = torch.zeros(int(length), dtype=torch.uint8, device=self.device)
        if self.leads:
            words.copy_(torch.tensor([*said], dtype=torch.uint8))
        dist.broadcast(words, 0)
        if mistake:
            raise mistake
        text = bytes(words.tolist()).decode()
        if failed:
            raise FieldguideError(text)
        return text

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns the error of a collective into the one that names the rank that is gone and its last step."""
        try:
            yield
        except RuntimeError as problem:
            with _deaf():
                lost = self.pulse.lost(waited=any(word in str(problem).lower() for word in ("timeout", "timed out")))
            if lost is None:
                raise
            raise RankLost(f"rank {self.rank}: {lost}; {RESUME}") from problem


def device_of(place: Place, name: str = "auto") -> str:
    """The device of a process: the accelerator of its number on this machine, or the processor.

    Raises:
        FieldguideError: there are fewer accelerators than processes, or the backend for them is not there.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if name not in ("auto", "cuda"):
        raise FieldguideError(
            f'distributed: each process takes its own device; leave out --device {name}, or say "cpu"'
        )
    count = torch.cuda.device_count()
    if place.local_rank >= count:
        raise FieldguideError(
            f"distributed: process {place.local_rank} of this machine has no GPU, as there are {count}; "
            f"start torchrun with --nproc-per-node {count or 1}, or use --device cpu"
        )
    return f"cuda:{place.local_rank}"


@contextmanager
def joined(place: Place, device: torch.device, timeout: float = 300.0) -> Iterator[Group]:
    """The group of all processes for the length of a ``with`` block: gloo between processors, nccl between GPUs.

    A rank that shows no sign of life for ``timeout`` seconds ends the job on all others, with one line that names it.

    Raises:
        FieldguideError: torch was built without the backend, or not all processes came.
        RankLost: another process is gone.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    if not dist.is_available() or not dist.is_backend_available(backend):
        raise FieldguideError(f"distributed: this build of torch has no {backend}, which {device.type} needs")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        store, *_ = next(rendezvous("env://", place.rank, place.size, timeout=timedelta(seconds=_START)))
        wait = timedelta(seconds=_PATIENCE * timeout)
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=wait)
    except (RuntimeError, ValueError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise FieldguideError(
            f"distributed: rank {place.rank} could not join the {place.size} processes ({reason})"
        ) from problem
    try:
        with Pulse(store, place.rank, place.size, timeout) as pulse:
            group = Group(place, device, pulse)
            with group.explained():
                yield group
    finally:
        dist.destroy_process_group()


@contextmanager
def _deaf() -> Iterator[None]:
    """When a process dies torchrun sends SIGTERM to the others; who it was is to be said first."""
    try:
        before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except ValueError:  # not the main thread, which alone hears signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _first_of(variables: Mapping[str, str]) -> str:
    return next(name for name in _VARIABLES if variables.get(name))


def _number(variables: Mapping[str, str], name: str) -> int:
    try:
        return int(variables[name])
    except ValueError:
        raise FieldguideError(f"distributed: {name}={variables[name]!r} is not a whole number") from None
