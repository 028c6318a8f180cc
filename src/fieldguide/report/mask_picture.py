"""A mask as a picture: text for the terminal, PNG for a page. Rows are queries, columns are keys, ink = may attend."""

from pathlib import Path

import torch
import torch.nn.functional as F

from fieldguide.blocks.masks import Mask
from fieldguide.errors import FieldguideError
from fieldguide.report.style import figure
from fieldguide.shapes import Bool, Tensor

LARGEST = 4096  # tokens; a larger picture shows nothing more


def mask_text(mask: Mask, n: int = 64, *, columns: int = 64) -> str:
    """The mask over n tokens in at most ``columns`` characters a line, two queries to a character cell.

    When n does not fit, one cell stands for a square of pairs and is inked when any of them is visible.
    """
    cells, scale = _cells(mask, n, columns)
    cells = F.pad(cells, (0, 0, 0, cells.shape[0] % 2))
    lines = [
        "".join(" ▀▄█"[top + 2 * bottom] for top, bottom in zip(upper, lower, strict=True))
        for upper, lower in zip(cells[0::2].int().tolist(), cells[1::2].int().tolist(), strict=True)
    ]
    width = cells.shape[1]
    note = f", one cell = {scale}×{scale} pairs, inked if any is visible" if scale > 1 else ""
    return "\n".join(
        [
            f"{mask}: {mask.density(n):.1%} of {n} × {n} pairs visible{note}",
            f"┌{'─' * width}┐ keys →",
            *(f"│{line}│" for line in lines),
            f"└{'─' * width}┘ queries ↓",
        ]
    )


def mask_png(mask: Mask, path: str | Path, n: int = 64) -> Path:
    """Writes the mask over n tokens as a PNG and returns its path."""
    cells, _ = _cells(mask, n, 512)
    path = Path(path)
    with figure(path, 5.0, 5.4) as drawing:
        axes = drawing.add_subplot()
        axes.imshow(cells.numpy(), cmap="Blues", vmin=0, vmax=1.25, interpolation="nearest", extent=(0, n, n, 0))
        axes.set(xlabel="key", ylabel="query")
        axes.set_title(f"{mask}\n{mask.density(n):.1%} of pairs visible", wrap=True)
        axes.locator_params(integer=True)
        axes.grid(False)
    return path


def _cells(mask: Mask, n: int, most: int) -> tuple[Bool[Tensor, "rows columns"], int]:
    """The mask's first batch row and head in at most ``most`` cells a side, and how many tokens a cell spans."""
    if not 1 <= n <= LARGEST:
        raise FieldguideError(f"a picture of a mask shows 1 to {LARGEST} tokens, not {n}")
    scale = -(-n // most)
    seen = mask.dense(n)[0, 0].float()
    pooled = F.max_pool2d(seen[None, None], scale, ceil_mode=True)[0, 0]
    return pooled.to(torch.bool), scale
