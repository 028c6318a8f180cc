"""A learning-rate range test as a picture: the loss against the rate, and what is suggested."""

from pathlib import Path

from fieldguide.report.style import BLUE, GREEN, ORANGE, figure
from fieldguide.train.range_test import RateRange


def draw_range(found: RateRange, file: Path) -> Path:
    """Draws the loss at every rate that was tried, smoothed and as measured, with both suggestions."""
    with figure(file, 7.2, 3.4) as drawing:
        axis = drawing.add_subplot()
        axis.plot(found.rates, found.losses, color=BLUE, alpha=0.25, linewidth=0.8)
        axis.plot(found.rates, found.smoothed, color=BLUE)
        axis.axvline(found.steepest, color=GREEN, linewidth=1.2, label=f"steepest descent: {found.steepest:.2g}")
        axis.axvline(
            found.tenth,
            color=ORANGE,
            linewidth=1.2,
            linestyle=(0, (4, 3)),
            label=f"a tenth of the lowest: {found.tenth:.2g}",
        )
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        low, high = min(found.smoothed), max(found.smoothed[: max(2, len(found.smoothed) // 3)])
        axis.set_ylim(low - 0.1 * (high - low), high + 0.35 * (high - low))
        axis.set_title("loss of a short training whose learning rate grows from step to step")
        axis.set_xlabel("learning rate")
        axis.legend(loc="lower left", labelcolor="linecolor", handlelength=1.2)
    return file
