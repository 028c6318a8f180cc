"""What is taken for what: the picture of a confusion matrix."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fieldguide.report.style import FAINT, GRID, INK, figure, shortened
from fieldguide.shapes import Int, Tensor

MOST_NUMBERED = 30
"""Classes up to which every cell shows its count."""
MOST_LABELS = 50


def draw_confusion(matrix: Int[Tensor, "k k"], classes: Sequence[str], file: Path) -> Path:
    """Counts in the cells; shade = share of the true class, blue where right and orange where wrong."""
    from matplotlib import colormaps

    counts, n = matrix.numpy(), len(classes)
    share = np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1))  # the root lets a single mistake show
    right = np.eye(n, dtype=bool)[..., None]
    colours = np.where(right, colormaps["Blues"](0.85 * share), colormaps["Oranges"](0.9 * share))
    colours[counts == 0] = 1.0
    side = min(max(0.42 * n, 2.6), 9.0)
    with figure(file, side + 1.1, side + 0.8) as drawing:
        axis = drawing.subplots()
        axis.imshow(colours)
        axis.set_title(f"{counts.trace():,} of {counts.sum():,} right", color=FAINT, fontsize=9)
        axis.set_xlabel("predicted")
        axis.set_ylabel("true")
        every = -(-n // MOST_LABELS)
        names = [shortened(name) for name in classes[::every]]
        axis.set_xticks(range(0, n, every), names, rotation=90 if max(map(len, names)) > 3 else 0)
        axis.set_yticks(range(0, n, every), names)
        axis.tick_params(length=0, labelsize=9 if n <= MOST_NUMBERED else 6)
        axis.set_xticks(np.arange(n + 1) - 0.5, minor=True)
        axis.set_yticks(np.arange(n + 1) - 0.5, minor=True)
        axis.tick_params(which="minor", length=0)
        axis.grid(False)
        axis.grid(True, which="minor", axis="both", color=GRID, linewidth=0.6)
        axis.spines[:].set_visible(False)
        if n <= MOST_NUMBERED:
            for row, column in np.argwhere(counts > 0):
                ink = "white" if row == column and share[row, column] > 0.7 else INK
                axis.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=ink, fontsize=8)
    return file
