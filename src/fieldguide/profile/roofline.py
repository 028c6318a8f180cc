"""How fast a machine could do a piece of work at most, and which of its limits says so.

Williams, Waterman & Patterson 2009, "Roofline", operation by operation: each takes the longer of its arithmetic and its
memory traffic. A processor launches one operation after another, which adds to that; an accelerator is given the next
one while it computes, so there the longer of the two sums binds. Operations are taken as they are: a compiler that
fuses them moves less, and may go faster than this roof.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from fieldguide.profile.machine import Machine
from fieldguide.profile.operations import Operation

Limit = Literal["arithmetic", "bandwidth", "launch", "data"]


@dataclass(frozen=True)
class Roofline:
    """The least time of some work on a machine, and where it goes."""

    flops: int
    bytes: int
    operations: int
    arithmetic: float
    """Seconds of the operations whose arithmetic takes longer than their traffic."""
    bandwidth: float
    """Seconds of those whose traffic takes longer."""
    launch: float
    """Seconds that launching all of them takes."""
    data: float
    """Seconds in which the next batch is made; 0 where none was given to measure."""
    overlaps: bool
    measured: float
    """Seconds that the work really took."""

    @property
    def least(self) -> float:
        """Seconds below which this machine cannot do these operations; a loader works beside them or binds."""
        work = self.arithmetic + self.bandwidth
        return max(max(work, self.launch) if self.overlaps else work + self.launch, self.data)

    @property
    def binds(self) -> Limit:
        """The limit that takes most of the least time."""
        if self.data and self.data >= self.least:
            return "data"
        limits: dict[Limit, float] = {
            "arithmetic": self.arithmetic,
            "bandwidth": self.bandwidth,
            "launch": self.launch,
        }
        return max(limits, key=lambda limit: limits[limit])

    @property
    def achieved(self) -> float:
        """FLOP/s."""
        return self.flops / self.measured

    @property
    def attainable(self) -> float:
        """FLOP/s."""
        return self.flops / self.least

    @property
    def share(self) -> float:
        """Of the attainable speed; a little more than 1 means that the peaks were measured in a bad moment."""
        return self.least / self.measured


def roofline(operations: Iterable[Operation], machine: Machine, measured: float, data: float = 0.0) -> Roofline:
    """The roof over some operations that really took ``measured`` seconds."""
    flops = moved = count = 0
    arithmetic = bandwidth = 0.0
    for operation in operations:
        computing, moving = operation.flops / machine.flops, operation.bytes / machine.bandwidth(operation.bytes)
        if computing >= moving:
            arithmetic += computing
        else:
            bandwidth += moving
        flops, moved, count = flops + operation.flops, moved + operation.bytes, count + 1
    launch = count * machine.launch
    return Roofline(flops, moved, count, arithmetic, bandwidth, launch, data, machine.overlaps, measured)
