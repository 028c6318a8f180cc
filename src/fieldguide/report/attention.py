"""Attention as pictures: every head of every layer, and rollout, which follows attention through all layers.

Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers", §3.

c channels · h, w height and width of the image · l layers · a heads · q queries, k keys, n tokens · i, j of patches.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F

from fieldguide.report.cam import STRONGEST, WIDTH
from fieldguide.report.style import BLUE, FAINT, INK, ORANGE, RULE, bare, figure, show_image
from fieldguide.shapes import Float, Tensor, UInt8

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

LABELLED = 72
"""Tokens that can be written along the side of a map."""
EACH = 0.155  # inches of a token in a map with labels
SMALLEST = 2.4  # inches of the longer side of such a map
TILE, GAP, SIDE, TOP = 0.62, 0.06, 0.62, 0.3  # inches of a small map, between two, and of their labels
FINEST = 96  # pixels of a small map


def rollout(maps: Sequence[Float[Tensor, "a n n"]]) -> Float[Tensor, "n n"]:
    """How much of each input token (column) is in each output token (row): A_L ⋯ A_1, every row a sum of 1.

    A_l = (W_l + 1) / 2, normalised, with W_l the mean of the layer's heads: the residual connection passes on as much
    as attention brings (eq. 1 and the text before it). ``maps`` begin with the first layer.
    """
    reached = torch.eye(maps[0].shape[-1], dtype=maps[0].dtype, device=maps[0].device)
    for weights in maps:
        mixed = weights.mean(0) + torch.eye(len(reached)).to(reached)
        reached = mixed / mixed.sum(-1, keepdim=True) @ reached
    return reached


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which maps are shown, numbered from 1, and how: one alone is drawn large, several in a grid with their mean."""

    layers: Sequence[int]
    heads: Sequence[int]

    @property
    def alone(self) -> bool:
        return len(self.layers) == len(self.heads) == 1

    def of(self, maps: Float[Tensor, "l a q k"]) -> Float[Tensor, "rows columns q k"]:
        """The chosen maps, and in a last column the mean of all heads where several are shown."""
        layers = maps[[number - 1 for number in self.layers]]
        heads = layers[:, [number - 1 for number in self.heads]]
        return torch.cat([heads, layers.mean(1, keepdim=True)], 1) if len(self.heads) > 1 else heads

    @property
    def columns(self) -> list[str]:
        return [f"head {number}" for number in self.heads] + ["mean"] * (len(self.heads) > 1)


def draw_patch_attention(
    image: UInt8[Tensor, "c h w"],
    maps: Float[Tensor, "l a i j"],
    reached: Float[Tensor, "i j"],
    file: Path,
    chosen: Chosen,
) -> Path:
    """The patches that one token attends to, over the image: rollout, then the chosen layers and heads.

    ``maps`` has that token's row of every layer and head, ``reached`` its row of :func:`rollout`. Each picture goes
    from its own smallest value, in grey, to its largest, in orange; the large ones say what these are.
    """
    tiles = chosen.of(maps)
    large = [(reached, "rollout to the class token")]
    if chosen.alone:
        large.append((tiles[0, 0], f"layer {chosen.layers[0]}, {chosen.columns[0]}"))
    shape = image.shape[2] / image.shape[1]
    with figure_of(file, (WIDTH * (1 + len(large)), WIDTH / shape + 0.55), chosen, shape) as (above, below):
        first, *others = above.subplots(1, 1 + len(large))
        show_image(first, image)
        first.set_title("image", color=FAINT)
        for axis, (heat, title) in zip(others, large, strict=True):
            axis.imshow(_over(image, heat))
            bare(axis)
            axis.set_title(title)
            axis.set_xlabel(f"{heat.min():.1%} (grey) to {heat.max():.1%} (orange)", loc="left", fontsize=8)
        for axis in (first, *others):
            axis.set_anchor("NW")
        if below:
            _draw_grid(below, [[_over(image, tile, FINEST) for tile in row] for row in tiles], chosen, shape)
    return file


def draw_token_attention(
    queries: Sequence[str],
    keys: Sequence[str],
    maps: Float[Tensor, "l a q k"],
    reached: Float[Tensor, "q k"] | None,
    file: Path,
    chosen: Chosen,
) -> Path:
    """Who attends to whom, rows to columns: rollout if there is one, then the chosen layers and heads.

    Up to ``LABELLED`` tokens are written beside the large map. Each row is scaled to its own largest value.
    """
    tiles, shape = chosen.of(maps), len(keys) / len(queries)
    large, title = maps.mean((0, 1)) if reached is None else reached, "rollout: all layers"
    if chosen.alone:
        large, title = tiles[0, 0], f"layer {chosen.layers[0]}, {chosen.columns[0]}"
    elif reached is None:
        title = "mean of all layers and heads"
    longest = max(len(queries), len(keys))
    cell = min(max(EACH, SMALLEST / longest), EACH * LABELLED / longest)
    size = cell * len(keys) + 1.0, cell * len(queries) + 1.4
    with figure_of(file, size, chosen, shape) as (above, below):
        axis = above.subplots()
        axis.imshow(_ink(large))
        axis.set_anchor("NW")
        axis.set_title(title)
        axis.grid(False)
        axis.spines[:].set_visible(True)
        _label(axis, queries, keys)
        if below:
            _draw_grid(below, [[_ink(tile) for tile in row] for row in tiles], chosen, shape)
    return file


@contextmanager
def figure_of(
    file: Path, large: tuple[float, float], chosen: Chosen, shape: float
) -> "Iterator[tuple[SubFigure, SubFigure | None]]":
    """A figure with room for large pictures of this many inches and, unless one map alone is shown, a grid below."""
    width, height = large
    if chosen.alone:
        with figure(file, width, height) as drawing:
            yield cast("SubFigure", drawing.subfigures()), None
        return
    columns, rows = len(chosen.columns), len(chosen.layers)
    wide, high = SIDE + columns * (TILE + GAP), TOP + rows * (TILE / shape + GAP) + 0.1
    with figure(file, max(width, wide), height + high) as drawing:
        above, below = cast("np.ndarray", drawing.subfigures(2, 1, height_ratios=[height, high]))
        yield above, below


def _label(axis: "Axes", queries: Sequence[str], keys: Sequence[str]) -> None:
    """Tokens along both sides, or their numbers where there are too many."""
    axis.xaxis.tick_top()
    for side, tokens, turned in ((axis.xaxis, keys, 90), (axis.yaxis, queries, 0)):
        if len(tokens) <= LABELLED:
            side.set_ticks(range(len(tokens)), list(tokens), fontsize=7.5, rotation=turned, color=INK)
            side.set_tick_params(length=0, pad=2)
    axis.set_xlabel("rows attend to columns, each row to the darkest most", loc="left", fontsize=8)
    axis.xaxis.set_label_position("bottom")


def _draw_grid(part: "SubFigure", tiles: Sequence[Sequence], chosen: Chosen, shape: float) -> None:
    """Small maps in rows of layers and columns of heads, placed by inches in one axis."""
    axis, height = part.subplots(), TILE / shape
    for row, (number, maps) in enumerate(zip(chosen.layers, tiles, strict=True)):
        top = row * (height + GAP)
        axis.text(-0.1, top + height / 2, f"layer {number}", ha="right", va="center", fontsize=8, color=FAINT)
        for column, tile in enumerate(maps):
            left = column * (TILE + GAP)
            axis.imshow(tile, extent=(left, left + TILE, top + height, top), interpolation="nearest")
            axis.plot(*zip(*_frame(left, top, TILE, height), strict=True), color=RULE, linewidth=0.5)
    for column, label in enumerate(chosen.columns):
        axis.text(column * (TILE + GAP) + TILE / 2, -0.08, label, ha="center", fontsize=8, color=FAINT)
    axis.set_xlim(-SIDE, len(chosen.columns) * (TILE + GAP))
    axis.set_ylim(len(tiles) * (height + GAP), -TOP)
    axis.set_anchor("NW")
    bare(axis)


def _frame(left: float, top: float, width: float, height: float) -> list[tuple[float, float]]:
    right, bottom = left + width, top + height
    return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]


def _over(image: UInt8[Tensor, "c h w"], heat: Float[Tensor, "i j"], finest: int | None = None):
    """The image in pale grey under the heat in orange, ``(h, w, 3)``; at most ``finest`` pixels a side."""
    size = tuple(image.shape[1:]) if finest is None else tuple(min(finest, side) for side in image.shape[1:])
    grey = image.float().mean(0)[None, None] / 255
    grey = F.interpolate(grey, size, mode="bilinear", antialias=True)[0, 0]
    heat = F.interpolate(heat.float()[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    heat = heat - heat.min()
    return _mixed(0.5 + grey[..., None] / 2, ORANGE, STRONGEST * _share(heat, heat.max()))


def _ink(weights: Float[Tensor, "q k"]):
    """White to blue, ``(q, k, 3)``."""
    return _mixed(torch.ones(1), BLUE, _share(weights.float(), weights.float().amax(1, keepdim=True)))


def _mixed(ground: Tensor, colour: str, share: Float[Tensor, "h w"]):
    from matplotlib.colors import to_rgb

    share = share[..., None]
    return ((1 - share) * ground + share * torch.tensor(to_rgb(colour))).numpy()


def _share(values: Tensor, most: Tensor) -> Tensor:
    return values / most.clamp_min(torch.finfo(values.dtype).tiny)
