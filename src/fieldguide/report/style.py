"""The one look of every figure: quiet, readable in print, safe for colour-blind eyes (Okabe & Ito 2008)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fieldguide.shapes import Tensor, UInt8

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, RULE, GRID = "#24292f", "#6e7781", "#d0d7de", "#eaeef2"
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
SERIES = (BLUE, ORANGE, GREEN, "#cc79a7", "#e69f00", "#56b4e9", INK)
"""One after the other for things of a kind."""
DOTS_PER_INCH = 160

STYLE = {
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "savefig.dpi": DOTS_PER_INCH,
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called "$5"
    "axes.edgecolor": RULE,
    "axes.labelcolor": FAINT,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": FAINT,
    "ytick.labelcolor": FAINT,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.facecolor": "white",
    "legend.edgecolor": "none",
    "legend.framealpha": 0.85,
}


@contextmanager
def figure(file: Path, width: float, height: float) -> "Iterator[Figure]":
    """A figure of this many inches in the house style, written to ``file`` as PNG, or as SVG if it ends so."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):  # pyright: ignore[reportArgumentType]  (rc keys are literal types)
        drawing = Figure(figsize=(width, height), layout="constrained")
        yield drawing
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".svg":
            drawing.savefig(file, format="svg", metadata={"Date": None})
        else:
            drawing.savefig(file, format="png", metadata={"Software": None})


def show_image(axis: "Axes", image: UInt8[Tensor, "c h w"]) -> None:
    """One image, grey or colour, with nothing around it."""
    axis.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=255)
    bare(axis)


def bare(axis: "Axes") -> None:
    """No ticks, grid or frame: for pictures, which have no numbers on their sides."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    axis.spines[:].set_visible(False)


def shortened(name: str, most: int = 16) -> str:
    """A class name that fits beside a picture."""
    return name if len(name) <= most else f"{name[: most - 1]}…"
