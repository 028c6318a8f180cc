"""Times that can be trusted, or that say why not: taken in turns, synchronised, beside a reference that never changes.

Whatever slows the whole machine slows all candidates of a round alike, so medians of one measurement compare; the
reference, a product of two fixed matrices, shows how steady the machine was meanwhile.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, process_time

import torch

TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
COMPANY, DRIFT, SPREAD = 0.15, 0.10, 0.25
"""From where a machine is noisy: cores that others used, drift and spread of the reference's time."""
LEAST = 5
"""Rounds that are taken whatever they cost."""


@dataclass(frozen=True)
class Times:
    """Seconds of one candidate, in the order in which they were taken."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """The interquartile range as a share of the median."""
        return (self.percentile(75) - self.percentile(25)) / self.median

    def percentile(self, percent: int) -> float:
        """By linear interpolation between the samples; of few samples, the high ones are little more than the worst."""
        if len(self.seconds) == 1:
            return self.seconds[0]
        return quantiles(self.seconds, n=100, method="inclusive")[percent - 1]


@dataclass(frozen=True)
class Quiet:
    """How steady the machine was while something was timed; shares, not percent."""

    company: float
    """Cores that other processes used."""
    idle: float
    """Cores that nobody used."""
    drift: float
    """How much the reference's median changed from the first third of the rounds to the last."""
    spread: float
    """The interquartile range of the reference over its median."""
    load: float | None
    """Processes that wanted a core in the last minute, per core; None where the system does not say."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each reason not to trust the times; none on a quiet machine."""
        found = []
        if self.company > COMPANY and self.idle < 1:  # with a core to spare, they did not wait for each other
            found.append(f"other processes used {self.company:.2f} cores meanwhile")
        if self.drift > DRIFT:
            found.append(
                f"the speed of the machine drifted by {self.drift:.0%}: a fixed product took longer or shorter"
            )
        if self.spread > SPREAD:
            found.append(f"the time of a fixed product varied by {self.spread:.0%} from one round to the next")
        if self.load is not None and self.load > 1 and found:
            found.append(f"the load average is {self.load:.1f} for each core")
        return tuple(found)


def synchronize(device: torch.device) -> None:
    """Waits until an accelerator has done what it was asked; a processor has."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def take_turns(
    candidates: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    seconds: float,
    rounds: int,
    warm_up: int = 2,
) -> tuple[dict[str, Times], Quiet]:
    """Each candidate a few times to warm up, then all in turn: ``rounds`` times, or fewer when ``seconds`` are over."""
    reference = _reference(device)
    everything = {**candidates, "": reference}
    for run in everything.values():
        for _ in range(warm_up):
            run()
    taken: dict[str, list[float]] = {name: [] for name in everything}
    synchronize(device)
    others, ours, began = busy(), process_time(), perf_counter()
    for done in range(rounds):
        if done >= LEAST and perf_counter() - began > seconds:
            break
        for name, run in everything.items():
            started = perf_counter()
            run()
            synchronize(device)
            taken[name].append(perf_counter() - started)
    elapsed = perf_counter() - began
    used, worked = process_time() - ours, busy() - others
    foreign = max(0.0, worked - used - 2 / TICK) / elapsed  # the system counts in ticks
    idle = max(0.0, (os.cpu_count() or 1) - worked / elapsed)
    steady = taken.pop("")
    third = max(1, len(steady) // 3)
    first, last = median(steady[:third]), median(steady[-third:])
    drift = max(first, last) / min(first, last) - 1
    times = {name: Times(tuple(samples)) for name, samples in taken.items()}
    return times, Quiet(foreign, idle, drift, Times(tuple(steady)).spread, _load())


def _reference(device: torch.device) -> Callable[[], object]:
    matrix = torch.ones(192, 192, device=device)
    return lambda: matrix @ matrix


def busy() -> float:
    """Seconds that all cores have worked since the machine started; 0 where that cannot be read."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _wait, *rest = map(int, stat.read_text().split("\n", 1)[0].split()[1:8])
    return (user + nice + system + sum(rest)) / TICK


def _load() -> float | None:
    return os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else None
