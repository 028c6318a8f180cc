"""How many CPU threads: small networks on shared machines can be ten times slower with two than with one."""

import copy
from statistics import median
from time import perf_counter

import torch
from torch import nn

from fieldguide.objectives.phase import Batch, Objective
from fieldguide.profile.tuning.surroundings import threads
from fieldguide.train.failures import is_out_of_memory
from fieldguide.train.precision import Precision
from fieldguide.train.randomness import untouched

_ROUNDS = 6
_BUDGET = 1.0
"""Seconds after which no further round begins; a large network is tried out once."""


def faster_threads(model: nn.Module, objective: Objective, batch: Batch, precision: Precision) -> int:
    """Times forward and backward passes with one thread and with all, in turn; the number with the lower median.

    Works on a copy: model, gradients and every random generator stay bit-identical. On an accelerator, or with one
    thread to choose from, nothing is timed. Ties and near ties (within 5 %) go to one thread, which leaves the other
    cores to others and gives results that do not depend on their number.
    """
    most = torch.get_num_threads()
    if precision.device.type != "cpu" or most == 1:
        return most
    with untouched():
        trial, began = copy.deepcopy(model), perf_counter()
        seconds: dict[int, list[float]] = {most: [], 1: []}
        while len(seconds[1]) < _ROUNDS and (not seconds[1] or perf_counter() - began < _BUDGET):
            for count, elapsed in seconds.items():
                try:
                    with threads(count):
                        elapsed.append(_time_step(trial, objective, batch, precision))
                except (RuntimeError, MemoryError) as problem:
                    if not is_out_of_memory(problem):
                        raise
                    return 1  # the training will find out how much of the batch fits
    # The first round warms up; it counts only when it is the only one.
    many, one = (median(elapsed[1:] or elapsed) for elapsed in (seconds[most], seconds[1]))
    return most if many < 0.95 * one else 1


def _time_step(model: nn.Module, objective: Objective, batch: Batch, precision: Precision) -> float:
    started = perf_counter()
    steps = objective.step(model, batch)
    while True:
        with precision.autocast():
            phase = next(steps, None)
        if phase is None:
            return perf_counter() - started
        phase.loss.backward()
