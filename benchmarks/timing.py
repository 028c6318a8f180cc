"""Times that can be compared: taken in turns in one process, and only while nobody else uses the cores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median, quantiles
from time import perf_counter, process_time

from fieldguide.profile.clock import TICK, busy

QUIET = 0.15  # of one core: the most that others may use during a sample that counts


@dataclass
class Times:
    """Seconds of one candidate; those taken in company are kept apart."""

    clean: list[float] = field(default_factory=list)
    disturbed: list[float] = field(default_factory=list)

    @property
    def samples(self) -> list[float]:
        return self.clean if len(self.clean) >= 3 else self.clean + self.disturbed

    @property
    def median(self) -> float:
        return median(self.samples)

    @property
    def spread(self) -> float:
        """The interquartile range as a share of the median."""
        if len(self.samples) < 3:
            return 0.0
        low, _, high = quantiles(self.samples, n=4)
        return (high - low) / self.median


def in_turns(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """Each candidate once to warm up, then all of them in turn, ``rounds`` times."""
    times = {name: Times() for name in candidates}
    for run in candidates.values():
        run()
    for _ in range(rounds):
        for name, run in candidates.items():
            others, ours, started = busy(), process_time(), perf_counter()
            run()
            seconds = perf_counter() - started
            foreign = (busy() - others) - (process_time() - ours)
            alone = foreign <= QUIET * seconds + 2 / TICK
            (times[name].clean if alone else times[name].disturbed).append(seconds)
    return times
