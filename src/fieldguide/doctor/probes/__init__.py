"""Experiments on copies, made only when a run gives reason to: their figures become records that rules can read."""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass

import torch

from fieldguide.doctor.history import History
from fieldguide.doctor.preflight import random_state_kept
from fieldguide.doctor.probes import label_permutation, lr_fork, one_batch, train_eval, zero_input
from fieldguide.doctor.probes.suspicion import Bench
from fieldguide.trace import Record

__all__ = ["PROBES", "Bench", "Experiment", "carry_out"]


@dataclass(frozen=True)
class Experiment:
    name: str
    wanted: Callable[[History], bool]
    """Whether what was seen so far gives reason to make it."""
    run: Callable[[Bench], dict[str, float]]


PROBES: tuple[Experiment, ...] = tuple(
    Experiment(module.__name__.rpartition(".")[2], module.wanted, module.run)
    for module in (train_eval, lr_fork, one_batch, zero_input, label_permutation)
)


def carry_out(history: History, bench: Bench, budget: float = 10.0) -> Iterator[Record]:
    """The records of all probes that are wanted and were not made yet, for about ``budget`` seconds at most.

    The random generators stand afterwards where they stood; a probe that cannot be made here is left out.
    """
    ends = time.perf_counter() + budget
    for probe in PROBES:
        if probe.name in history.probes or time.perf_counter() > ends or not probe.wanted(history):
            continue
        with random_state_kept(), torch.enable_grad(), redirect_stdout(io.StringIO()):
            try:
                figures = probe.run(bench)
            except Exception:  # a network may do anything; an experiment that fails says nothing about the run
                figures = {}
        yield {"kind": "probe", "step": history.step, "name": probe.name, "figures": figures}
