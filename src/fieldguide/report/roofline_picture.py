"""A profile under its roofs: how fast each layer ran, how fast it could run here, and which limit binds.

Williams, Waterman & Patterson 2009, "Roofline: an insightful visual performance model", Fig. 1.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fieldguide.profile import Profile
from fieldguide.report.style import BLUE, FAINT, INK, ORANGE, RULE, SERIES, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LIMITS = ("arithmetic", "bandwidth", "launch", "data")
KINDS = 4
"""Types of layers that have a colour of their own, those that take longest; the others share one."""


def draw_roofline(found: Profile, file: Path, depth: int = 2) -> Path:
    """Draw the layers of a depth and the whole below the machine's roofs, and beside them the four limits in time.

    A layer is a dot where its arithmetic per byte and its speed meet, the larger the longer it takes. Layers without
    arithmetic are not in it: they cost traffic and launches, which the bars have.
    """
    roof = found.roof
    work = "training step" if found.step else "forward pass"
    with figure(file, 7.6, 4.2) as drawing:
        drawing.suptitle(
            f"{found.model}: {roof.binds} binds the {work}, at {roof.share:.0%} of what is attainable",
            x=0.01, ha="left", fontsize=10,
        )  # fmt: skip
        main, bars = drawing.subplots(1, 2, width_ratios=(2.1, 1))
        _roofs(main, found, depth)
        _limits(bars, found)
        drawing.legend(*main.get_legend_handles_labels(), loc="outside lower left", ncols=4, fontsize=8)
    return file


def _roofs(axis: "Axes", found: Profile, depth: int) -> None:
    machine, roof = found.machine, found.roof
    layers = [row for row in found.rows(depth) if row.flops > 0 and row.moved_bytes > 0 and row.seconds > 0]
    dots = [(row.flops / row.moved_bytes, row.flops / row.seconds / 1e9) for row in layers]
    whole = roof.flops / max(roof.bytes, 1)
    ridge = machine.flops / machine.bandwidths[-1]
    x = [ridge, *(place for place in (whole, *(place for place, _ in dots)) if place > 0)]
    low, high = min(x) / 4, max(x) * 6
    across = np.geomspace(low, high, 200)
    for bandwidth, name, dash in zip(
        (machine.bandwidths[-1], machine.bandwidths[0]), ("memory", "cache"), ("-", "--"), strict=True
    ):
        height = np.minimum(across * bandwidth, machine.flops) / 1e9
        axis.plot(across, height, color=INK, linewidth=1.2, linestyle=dash,
                  label=f"{name}, {bandwidth / 1e9:,.0f} GB/s")  # fmt: skip
    axis.axvline(ridge, color=RULE, linewidth=0.8, zorder=0)
    kinds = sorted({row.kind for row in layers}, key=lambda kind: -sum(r.seconds for r in layers if r.kind == kind))
    longest = max((row.seconds for row in layers), default=1.0)
    for place, kind in enumerate(kinds):
        own = [(dot, row) for dot, row in zip(dots, layers, strict=True) if row.kind == kind]
        colour = (BLUE, *SERIES[2:5])[place] if place < KINDS else FAINT
        label = kind or "between layers"
        axis.scatter([a for (a, _), _ in own], [b for (_, b), _ in own], color=colour, alpha=0.75, linewidths=0,
                     s=[12 + 60 * row.seconds / longest for _, row in own],
                     label=label if place < KINDS else None)  # fmt: skip
    if roof.flops:
        axis.plot([whole, whole], [roof.achieved / 1e9, roof.attainable / 1e9], color=ORANGE, linewidth=1)
        axis.plot([whole], [roof.attainable / 1e9], "_", color=ORANGE, markersize=11, markeredgewidth=2)
        axis.plot([whole], [roof.achieved / 1e9], "D", color=ORANGE, markersize=6,
                  label="the whole, and what it could do")  # fmt: skip
    axis.set(xscale="log", yscale="log", xlim=(low, high), xlabel="FLOPs a byte")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("")
    axis.xaxis.set_minor_formatter("")
    axis.set_title("GFLOP/s")


def _limits(axis: "Axes", found: Profile) -> None:
    roof = found.roof
    values = [1e3 * getattr(roof, limit) for limit in LIMITS]
    rows = range(len(LIMITS))
    colours = [ORANGE if limit == roof.binds else BLUE for limit in LIMITS]
    axis.barh(rows, values, color=colours, height=0.55)
    for row, value in zip(rows, values, strict=True):
        axis.text(value, row, f" {value:,.3g}" if value else " –", color=FAINT, fontsize=8, va="center")
    axis.axvline(1e3 * roof.measured, color=INK, linewidth=1, linestyle=":")
    axis.text(1e3 * roof.measured, len(LIMITS) - 0.45, "measured ", color=FAINT, fontsize=8, ha="right", va="center")
    axis.set_yticks([*rows], [*LIMITS])
    axis.set(ylim=(len(LIMITS) - 0.2, -0.6), xlim=(0, 1.08e3 * max(roof.measured, *(v / 1e3 for v in values))))
    axis.grid(axis="x")
    axis.grid(visible=False, axis="y")
    axis.set_title("ms at least")
