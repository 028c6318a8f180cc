"""How training went: loss and accuracy above, the learning rate under them, on one axis of epochs."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldguide.report.style import BLUE, GREEN, ORANGE, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]
LONGEST_LINE = 4000
"""Points of a line; more cannot be seen in a picture of this size."""


def draw_curves(records: Sequence[Record], file: Path) -> Path:
    """Draw every step's loss, each epoch's losses and accuracies, and the schedule, from a run's metrics."""
    steps = [r for r in records if r["kind"] == "step"]
    epochs = [r for r in records if r["kind"] == "epoch"]
    per_epoch = epochs[0]["step"] if epochs else 1  # the last may be unfinished
    unit = "epoch" if epochs else "step"
    step_x, epoch_x = [r["step"] / per_epoch for r in steps], [r["step"] / per_epoch for r in epochs]

    accuracies = [key for key in ("train_accuracy", "val_accuracy") if any(key in r for r in epochs)]
    heights = [3.0, 2.2, 1.0] if accuracies else [3.0, 1.0]
    with figure(file, 7.2, 1.05 * sum(heights)) as drawing:
        loss, *middle, rate = drawing.subplots(len(heights), 1, sharex=True, height_ratios=heights)
        _line(loss, step_x, smooth([r["loss"] for r in steps]), BLUE, "training, smoothed", behind=steps)
        _line(loss, epoch_x, [r.get("val_loss") for r in epochs], ORANGE, "validation", marker=True)
        if constant := [r["val_baseline"] for r in epochs if "val_baseline" in r]:
            loss.axhline(constant[-1], color=ORANGE, linestyle="--", linewidth=1.0, label="best constant answer")
        loss.set_title("loss")
        log_scale_where_it_helps(loss, [r["loss"] for r in steps])
        loss.legend(loc="upper right", labelcolor="linecolor", handlelength=1.2)

        for axis in middle:
            for key in accuracies:
                name, colour = ("validation", ORANGE) if key == "val_accuracy" else ("training", BLUE)
                _line(axis, epoch_x, [_percent(r.get(key)) for r in epochs], colour, name, marker=True)
            axis.set_title("accuracy, %")
            axis.set_ylim(*_percent_limits([100 * r[key] for key in accuracies for r in epochs if key in r]))
            if len(accuracies) > 1:
                axis.legend(loc="lower right", labelcolor="linecolor", handlelength=1.2)

        _line(rate, step_x, [r["lr"] for r in steps], GREEN, "")
        rate.set_title("learning rate")
        rate.set_ylim(bottom=0)
        rate.locator_params(axis="y", nbins=3)
        rate.yaxis.set_major_formatter("{x:g}")
        rate.set_xlabel(unit)
        rate.margins(x=0.01)
    return file


def smooth(values: Sequence[float], share: float = 0.02) -> list[float]:
    """Mean over a centred window of this share of the series, so that nothing lags; what is not finite is skipped."""
    half = round(share * len(values) / 2)
    finite = [isfinite(value) for value in values]
    counts = list(accumulate(finite, initial=0))
    sums = list(accumulate((v if ok else 0.0 for v, ok in zip(values, finite, strict=True)), initial=0.0))
    windows = ((max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values)))
    return [(sums[b] - sums[a]) / (counts[b] - counts[a]) if counts[b] > counts[a] else nan for a, b in windows]


def _line(
    axis: "Axes", x: Sequence[float], y: Sequence[float | None], colour: str, name: str, *, marker=False, behind=()
):
    stride = max(1, len(x) // LONGEST_LINE)
    if behind:
        axis.plot(x[::stride], [r["loss"] for r in behind][::stride], color=colour, alpha=0.22, linewidth=0.7)
    points = [(a, b) for a, b in list(zip(x, y, strict=True))[::stride] if b is not None and isfinite(b)]
    style = {"marker": "o", "markersize": 3.5 if len(points) < 40 else 0} if marker else {}
    axis.plot(*zip(*points, strict=True) if points else ((), ()), color=colour, label=name or None, **style)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _percent_limits(values: Sequence[float]) -> tuple[float, float]:
    """The whole series, but where most of it is near 100 % the climb of the first epochs may leave the picture."""
    gap = max(100 - sorted(values)[len(values) // 10], 0.5)
    return max(min(values) - 0.1 * gap, 100 - 2 * gap), min(max(values) + 0.3 * gap, 100 + 0.1 * gap)


def log_scale_where_it_helps(axis: "Axes", values: Sequence[float]) -> None:
    """For positive values that span more than a factor of 30."""
    shown = [v for v in values if isfinite(v) and v > 0]
    if shown and len(shown) == len(values) and max(shown) > 30 * min(shown):
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
