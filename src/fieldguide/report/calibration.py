"""How often a classifier is right when it is this sure: the reliability diagram."""

from pathlib import Path

import numpy as np

from fieldguide.metrics import Reliability
from fieldguide.report.style import BLUE, FAINT, GRID, INK, ORANGE, figure


def story_of(found: Reliability) -> str:
    """What the diagram shows, in words."""
    right = float((found.accuracy * found.count).sum() / found.count.sum())
    sure = float((found.confidence * found.count).sum() / found.count.sum())
    manner = "more sure than right" if sure > right else "less sure than right"
    return (
        "How often an answer is right (bars) against how sure the network was of it (the broken line is where both "
        f"agree), and how many answers that were. On average {sure:.1%} sure and {right:.1%} right: {manner}; the mean "
        f"gap, the expected calibration error, is {found.error:.1%}."
    )


def draw_reliability(found: Reliability, file: Path) -> Path:
    """Accuracy over confidence in bins (Guo et al. 2017, fig. 1), the gap to the line of the honest, and the counts."""
    count, confidence, accuracy = (values.numpy() for values in (found.count, found.confidence, found.accuracy))
    width, full = 1 / len(count), count > 0
    middle = (np.arange(len(count)) + 0.5) * width
    with figure(file, 4.4, 5.0) as drawing:
        upper, lower = drawing.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
        upper.bar(middle, accuracy, width * 0.94, color=BLUE, alpha=0.8)
        upper.vlines(confidence[full], accuracy[full], confidence[full], color=ORANGE, linewidth=1.6)
        upper.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right")
        upper.set_title(f"mean gap {found.error:.1%}", color=INK)
        lower.bar(middle, count, width * 0.94, color=GRID, edgecolor=FAINT, linewidth=0.6)
        lower.set(xlabel="confidence", ylabel="samples")
        lower.locator_params(axis="y", nbins=3)
    return file
