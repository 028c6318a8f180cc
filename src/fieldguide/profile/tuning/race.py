"""Who is fastest, found out in turns: the slower half leaves early, and the winner must win again.

Successive halving (Karnin, Koren & Somekh 2013, algorithm 2): everyone runs a few rounds, the faster half twice as
many, until two are left or the time is over. What disturbs a call only adds to its time, so a race goes by the best
times; the last comparison, whose ratio is reported, by the medians of whole rounds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import TypeVar

import torch

from fieldguide.profile.clock import Quiet, Times, take_turns
from fieldguide.profile.tuning.memory import keep_memory
from fieldguide.profile.tuning.tuned import Trial

Name = TypeVar("Name")

ROUNDS = (2, 40)
"""The fewest and the most of a heat; how many follows from the time that one takes."""
CONFIRMED = (3, 100)
"""The same of the last comparison."""
SURE = 1.03
"""Less than this is no gain: a machine differs by as much from one hour to the next."""


@dataclass(frozen=True)
class Result:
    """One candidate against another, in the last rounds that it ran in."""

    seconds: float
    speedup: float


def race(trials: Mapping[Name, Trial], leader: Trial, device: torch.device, seconds: float) -> dict[Name, Result]:
    """All candidates after about so many seconds; the leader, whom they are compared with, runs in every round."""
    results: dict[Name, Result] = {}
    left, began = dict(trials), perf_counter()
    while True:
        best = _heat([leader, *left.values()], device, (seconds + began - perf_counter()) / 2)
        results |= {name: Result(own, best[0] / own) for name, own in zip(left, best[1:], strict=True)}
        if len(left) <= 2 or perf_counter() - began > seconds / 2:
            return results
        order = sorted(left, key=lambda name: results[name].seconds)
        left = {name: left[name] for name in order[: (len(order) + 1) // 2]}


def confirm(trial: Trial, original: Trial, device: torch.device, seconds: float) -> tuple[Result, Result, bool, Quiet]:
    """The winner and the original once more; whether it is faster beyond the noise: in two of three rounds."""
    runs = {"trial": trial.run, "original": original.run}
    rounds = max(CONFIRMED[0], min(CONFIRMED[1], int(seconds / (trial.once + original.once))))
    turns, quiet = take_turns(runs, device, seconds=seconds, rounds=rounds, warm_up=0)
    fast, base = turns["trial"], turns["original"]
    ratios = Times(tuple(b / a for a, b in zip(fast.seconds, base.seconds, strict=True)))
    sure = ratios.percentile(33) > 1 and ratios.median >= SURE
    return Result(fast.median, ratios.median), Result(base.median, 1.0), sure, quiet


def gain_of_kept_memory(kept: Trial, trial: Trial, device: torch.device, seconds: float) -> float:
    """How much faster a trial is with memory kept: in blocks, because the first call after a change pays for it."""
    spent: dict[bool, list[float]] = {False: [], True: []}
    began = perf_counter()
    while len(spent[True]) < 2 or (perf_counter() - began < seconds and len(spent[True]) < ROUNDS[1]):
        for keep, one in ((False, trial), (True, kept)):
            keep_memory(keep)
            turns, _ = take_turns({"one": one.run}, device, seconds=seconds, rounds=2, warm_up=1)
            spent[keep] += turns["one"].seconds
    return median(spent[False]) / median(spent[True])


def _heat(trials: list[Trial], device: torch.device, seconds: float) -> list[float]:
    """The best time of each, of as many rounds as there is time for."""
    runs = {str(place): trial.run for place, trial in enumerate(trials)}
    rounds = int(seconds / sum(trial.once for trial in trials))
    turns, _ = take_turns(runs, device, seconds=seconds, rounds=max(ROUNDS[0], min(ROUNDS[1], rounds)), warm_up=0)
    return [min(turns[name].seconds) for name in runs]
