"""The test images a network got most wrong: those whose true class it found least likely."""

from pathlib import Path

from fieldguide.report.predictions import Predictions
from fieldguide.report.style import BLUE, ORANGE, bare, figure, shortened, show_image

COLUMNS = 4


def draw_mistakes(predictions: Predictions, file: Path) -> Path:
    """A grid of the worst mistakes, each with its true class, the predicted one and that one's probability."""
    columns = min(COLUMNS, len(predictions.worst))
    rows = -(-len(predictions.worst) // columns)
    with figure(file, 1.8 * columns, 2.2 * rows) as drawing:
        axes = drawing.subplots(rows, columns, squeeze=False).flat
        for axis, index, image in zip(axes, predictions.worst.tolist(), predictions.worst_images, strict=False):
            show_image(axis, image)
            true, said = (predictions.classes[int(c[index])] for c in (predictions.labels, predictions.predicted))
            sure = 100 * predictions.probability[index]
            axis.set_title(shortened(true), color=BLUE, fontsize=9)
            axis.set_xlabel(f"taken for {shortened(said)}, {sure:.0f}%", color=ORANGE, fontsize=8, loc="left")
        for axis in drawing.axes:
            bare(axis)
    return file
