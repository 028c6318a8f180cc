"""What a training asked of its machine, and of its layers: gradients, speed, waiting, memory."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from math import isfinite
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from fieldguide.report.curves import log_scale_where_it_helps, smooth
from fieldguide.report.page import Picture
from fieldguide.report.style import BLUE, GREEN, ORANGE, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]
Panel = Callable[["Axes"], None]
GIB = 2.0**30
BOUND = 0.3
"""Share of the time spent waiting for data from which a faster loader would be felt."""
_MEMORY = {
    "resident_bytes": ("process, peak", BLUE),
    "device_bytes": ("tensors on the device, peak", ORANGE),
    "reserved_bytes": ("reserved on the device", GREEN),
}


def draw_monitor(steps: Sequence[Record], samples: Sequence[Record], unit: str, file: Path) -> Picture | None:
    """A panel each for the gradient's norm over the steps and by depth, samples a second, waiting for data and memory.

    From the ``step`` and ``sample`` records of a run; what was not measured is left out, and None when nothing was. The
    story says what bound the training.
    """
    panels: list[Panel] = []
    if len(norms := [r for r in steps if isfinite(r.get("grad_norm", float("nan")))]) > 1:
        panels.append(lambda axis: _gradient(axis, norms))
    if layers := [r["gradients"] for r in samples if len(r.get("gradients", ())) > 1]:
        panels.append(lambda axis: _by_depth(axis, layers[0], layers[-1]))
    if len(timed := [r for r in steps if r.get("seconds", 0) > 0]) > 1:
        panels.append(lambda axis: _throughput(axis, timed, unit))
    if len(waits := [r for r in samples if "data_wait" in r]) > 1:
        panels.append(lambda axis: _waiting(axis, waits))
    if len([r for r in samples if _MEMORY.keys() & r.keys()]) > 1:
        panels.append(lambda axis: _memory(axis, samples))
    if not panels:
        return None
    rows = -(-len(panels) // 2)
    with figure(file, 7.2, 2.3 * rows) as drawing:
        axes = drawing.subplots(rows, min(2, len(panels)), squeeze=False).flatten()
        for panel, axis in zip(panels, axes, strict=False):
            panel(axis)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
    return Picture("Monitor", file, " ".join(_sentences(timed, waits, samples, unit)))


def _sentences(timed: Sequence[Record], waits: Sequence[Record], samples: Sequence[Record], unit: str) -> list[str]:
    said = []
    if waits:
        share = waited(timed, waits)
        bound = (
            "its loader bound it: workers or a faster format would help" if share >= BOUND else "the network bound it"
        )
        said.append(f"The training waited for data {share:.1%} of the time; {bound}.")
    if timed:
        said.append(f"The median step did {median(_speed(timed)):,.0f} {unit} a second.")
    for key, what in (("resident_bytes", "Its process held"), ("device_bytes", "Tensors on the device took")):
        if most := max((r[key] for r in samples if key in r), default=0):
            said.append(f"{what} {most / GIB:,.2f} GiB at most.")
    return said or ["The norm of the gradient."]


def waited(steps: Sequence[Record], samples: Sequence[Record]) -> float:
    """Share of the traced time that went into waiting for data: each sample's, by the seconds since the one before."""
    numbers = [r["step"] for r in steps]
    clock = [*accumulate((r["seconds"] for r in steps), initial=0.0)]
    moments = [clock[bisect_right(numbers, step)] for step in (0, *(r["step"] for r in samples))]
    spans = [after - before for before, after in pairwise(moments)]
    return sum(r["data_wait"] * span for r, span in zip(samples, spans, strict=True)) / max(sum(spans), 1e-9)


def _speed(steps: Sequence[Record]) -> list[float]:
    return [r["samples"] / r["seconds"] for r in steps]


def _gradient(axis: "Axes", steps: Sequence[Record]) -> None:
    norms = [r["grad_norm"] for r in steps]
    _noisy(axis, steps, norms)
    log_scale_where_it_helps(axis, norms)
    _titled(axis, "gradient norm")


def _throughput(axis: "Axes", steps: Sequence[Record], unit: str) -> None:
    _noisy(axis, steps, _speed(steps))
    axis.set_ylim(bottom=0)
    _titled(axis, f"{unit} a second")


def _noisy(axis: "Axes", steps: Sequence[Record], values: Sequence[float]) -> None:
    x = [r["step"] for r in steps]
    axis.plot(x, values, color=BLUE, alpha=0.22, linewidth=0.7)
    axis.plot(x, smooth(values), color=BLUE)


def _by_depth(axis: "Axes", first: Mapping[str, float], last: Mapping[str, float]) -> None:
    for layers, colour, name in ((first, ORANGE, "first sample"), (last, BLUE, "last")):
        axis.plot(range(1, len(layers) + 1), [*layers.values()], color=colour, marker="o", markersize=3, label=name)
    log_scale_where_it_helps(axis, [*first.values(), *last.values()])
    axis.locator_params(axis="x", integer=True)
    axis.legend(labelcolor="linecolor", handlelength=1.2)
    _titled(axis, "gradient norm by depth", "layer")


def _waiting(axis: "Axes", samples: Sequence[Record]) -> None:
    axis.plot([r["step"] for r in samples], [100 * r["data_wait"] for r in samples], color=BLUE)
    axis.set_ylim(0, 100)
    _titled(axis, "waiting for data, %")


def _memory(axis: "Axes", samples: Sequence[Record]) -> None:
    for key, (name, colour) in _MEMORY.items():
        if own := [r for r in samples if key in r]:
            axis.plot([r["step"] for r in own], [r[key] / GIB for r in own], color=colour, label=name)
    axis.set_ylim(0, 1.2 * axis.get_ylim()[1])
    axis.legend(loc="lower right", labelcolor="linecolor", handlelength=1.2)
    _titled(axis, "memory, GiB")


def _titled(axis: "Axes", title: str, below: str = "step") -> None:
    axis.set_title(title)
    axis.set_xlabel(below)
