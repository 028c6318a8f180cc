"""One training in as many processes as ``torchrun`` has started."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fieldguide.cli.devices import choose_device
from fieldguide.errors import FieldguideError
from fieldguide.train.callbacks import TrainingWarning
from fieldguide.train.distributed import ALONE, Place, Strategy, build_strategy, device_of, joined


@contextmanager
def processes(distributed: str | None, device: str, timeout: float) -> Iterator[tuple[Strategy, str]]:
    """How this process shares a training with the others, if there are any, and the device that it takes.

    Raises:
        FieldguideError: torchrun and ``--distributed`` do not go together, or the processes cannot be joined.
    """
    place = Place.found()
    if place is None:
        if distributed:
            raise FieldguideError(
                f"--distributed {distributed} shares a training among processes that torchrun starts: "
                f"torchrun --nproc-per-node 2 -m fieldguide train … --distributed {distributed}"
            )
        yield ALONE, choose_device(device)
        return
    if not distributed:
        raise FieldguideError(
            f"torchrun has started {place.size} processes; say how they share the training: --distributed ddp"
        )
    device = device_of(place, device)
    with joined(place, torch.device(device), timeout) as group, warnings.catch_warnings():
        if not group.leads:  # all would say the same
            warnings.simplefilter("ignore", TrainingWarning)
        yield build_strategy(distributed, group), device
