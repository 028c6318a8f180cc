"""What a network has learned to see and what it sees in one image: its first filters, and the maps of its stages."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from fieldguide.blocks.conv import FeatureInfo
from fieldguide.errors import FieldguideError
from fieldguide.report.style import FAINT, bare, figure, show_image
from fieldguide.shapes import Float, Tensor, UInt8

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 64
"""Filters shown, and half of it maps of one stage."""
COLUMNS = 16
TILE, GAP, TITLE = 0.5, 0.03, 0.28
"""Inches; the gap lies between two tiles."""


def draw_filters(model: nn.Module, file: Path) -> Path:
    """The filters of the first convolution: in colour for three input channels, else one grey picture per channel.

    Each is scaled by its own largest weight; mid-grey is 0. Raises FieldguideError when there is no convolution.
    """
    found = next(((name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)), None)
    if found is None:
        raise FieldguideError(f"{getattr(model, 'name', type(model).__name__)} has no convolution and so no filters")
    name, weights = found[0], found[1].weight.detach().float().cpu()
    colour = weights.shape[1] == 3
    tiles = weights if colour else weights.flatten(0, 1)[:, None]
    tiles = 0.5 + 0.5 * tiles / tiles.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(tiles.dtype).tiny)
    shown, (_, _, height, width) = tiles[:MOST], tiles.shape
    with figure(file, TILE * COLUMNS, TITLE + _height(shown)) as drawing:
        axis = drawing.subplots()
        _draw_tiles(axis, shown, 0.0, 1.0, "gray")
        count = f"the first {MOST} of {len(tiles)}" if len(tiles) > MOST else f"{len(tiles)}"
        kind = "in colour" if colour else "mid-grey = 0"
        axis.set_title(f"{name}: {count} filters of {height}×{width}, {kind}, each scaled to its largest weight")
    return file


@torch.no_grad()
def draw_maps(
    model: nn.Module,
    image: UInt8[Tensor, "c h w"],
    inputs: Float[Tensor, "1 c h w"],
    file: Path,
    stages: Sequence[int] | None = None,
) -> Path:
    """The image and, for each stage, the maps of the channels that answer most (largest mean magnitude) first.

    ``inputs`` is the image as the network takes it; ``stages`` are positions in ``model.feature_info``, all when not
    given. One scale of brightness for all the maps of a stage.
    """
    maps = [found[0].float().cpu() for found in model.features(inputs)]  # pyright: ignore[reportCallIssue]
    infos: Sequence[FeatureInfo] = model.feature_info  # pyright: ignore[reportAssignmentType]
    chosen = range(len(maps)) if stages is None else stages
    shown = [maps[k][maps[k].abs().mean((1, 2)).argsort(descending=True)[: MOST // 2], None] for k in chosen]
    heights = [1.2, *map(_height, shown)]
    with figure(file, TILE * COLUMNS, sum(heights) + TITLE * len(heights)) as drawing:
        first, *axes = drawing.subplots(len(heights), 1, height_ratios=heights)
        show_image(first, image)
        first.set_anchor("NW")
        first.set_title("image", color=FAINT)
        for axis, stage, tiles in zip(axes, chosen, shown, strict=True):
            low, high = tiles.min().item(), tiles.max().item()
            _draw_tiles(axis, tiles, low, high, "magma")
            stride, channels = infos[stage].stride, infos[stage].channels
            count = f"{len(tiles)} of {channels}" if len(tiles) < channels else f"{channels}"
            size = f"{tiles.shape[2]}×{tiles.shape[3]}, stride {stride}"
            axis.set_title(f"stage {stage + 1}: {count} channels, {size}, {low:.2g} (dark) to {high:.2g}")
    return file


def _height(tiles: Tensor) -> float:
    """Inches that these pictures take in rows of ``COLUMNS``."""
    return -(-len(tiles) // COLUMNS) * (TILE * tiles.shape[2] / tiles.shape[3] + GAP)


def _draw_tiles(axis: "Axes", tiles: Float[Tensor, "n c i j"], low: float, high: float, colours: str) -> None:
    """Pictures of one size side by side, in inches of the axis."""
    height = TILE * tiles.shape[2] / tiles.shape[3]
    for place, tile in enumerate(tiles.permute(0, 2, 3, 1).squeeze(-1).numpy()):
        row, column = divmod(place, COLUMNS)
        left, top = column * (TILE + GAP), row * (height + GAP)
        extent = (left, left + TILE, top + height, top)
        axis.imshow(tile, cmap=colours, vmin=low, vmax=high, extent=extent, interpolation="nearest")
    axis.set_xlim(0, COLUMNS * (TILE + GAP) - GAP)
    axis.set_ylim(_height(tiles) - GAP, 0)
    axis.set_anchor("NW")
    bare(axis)
