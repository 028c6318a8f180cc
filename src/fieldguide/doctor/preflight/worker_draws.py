"""Do the workers of a loader draw the same random numbers? Two of them read one sample, again and again."""

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from itertools import pairwise
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from fieldguide.doctor.observe.replay import tensors

READINGS = 4
"""Of each worker."""
WAIT = 2.0  # seconds for a reading, after which nothing is said


def worker_repeats(loader: DataLoader) -> float | None:
    """Share of the readings that two workers make alike, although each makes every one of its own differently.

    The workers are new ones, begun as the loader begins its own. None where reading draws nothing, where there are
    fewer than two workers or where they are not forked, and where a reading fails or takes longer than two seconds.
    """
    data: Any = loader.dataset
    if loader.num_workers < 2 or isinstance(data, IterableDataset) or _method(loader) != "fork":
        return None
    again = DataLoader(
        data, batch_size=None, sampler=[0] * (2 * READINGS), num_workers=2, timeout=WAIT,
        worker_init_fn=loader.worker_init_fn, multiprocessing_context=loader.multiprocessing_context,
    )  # fmt: skip
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # of the workers, which are forked in here
            read = [tensors(sample) for sample in again]  # by the two in turns
    except Exception:  # a data set may be anything, and its own loader will say so
        return None
    first, second = read[::2], read[1::2]
    if any(_alike(a, b) for worker in (first, second) for a, b in pairwise(worker)):
        return None
    return sum(map(_alike, first, second)) / READINGS


def _method(loader: DataLoader) -> str | None:
    context = loader.multiprocessing_context or torch.multiprocessing
    return context.get_start_method()


def _alike(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))
