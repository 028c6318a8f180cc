"""Attention within windows of a map, and what a hierarchy of such maps needs (Swin).

b batch · h, w height and width of a map · d model width. Maps are (b, h, w, d) here, as norms and linear layers want
them; :class:`ChannelsLast` turns them to and from the (b, c, h, w) of other networks, which moves no number.
"""

import torch
from torch import nn
from torch.nn.functional import pad

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.biases import RelativeTable
from fieldguide.blocks.masks import Documents
from fieldguide.shapes import Float, Tensor


class ChannelsLast(nn.Sequential):
    """Layers for the last axis, one after the other, on the channels of a map: ``(b, c, h, w) → (b, d, i, j)``."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class WindowAttention(nn.Module):
    """Attention within windows of ``size`` × ``size``, ``(b, h, w, d) → (b, h, w, d)`` (Liu et al. 2021, §3.2).

    ``shift`` moves the windows down and to the right, so that neighbours of the layer before meet: the map is rolled
    the other way, and of a window that holds both ends of the map each sees its own ("cyclic shift", fig. 4). A map
    that is no multiple of the window is filled up with zeros below and to the right, which are attended as torchvision
    does; along a side that one window covers nothing is shifted.
    """

    def __init__(self, d_model: int, num_heads: int, size: int, shift: int = 0):
        super().__init__()
        self.size, self.shift = size, shift
        self.attention = Attention(d_model, num_heads, bias=RelativeTable(num_heads, (size, size)))

    def forward(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b h w d"]:
        height, width = x.shape[1:3]
        x = _fill(x, self.size)
        rows, columns = x.shape[1:3]
        down, right = (self.shift if length > self.size else 0 for length in (rows, columns))
        if not down and not right:
            x = _join(self.attention(_cut(x, self.size)), self.size, rows, columns)
        else:
            windows = _cut(x.roll((-down, -right), (1, 2)), self.size)
            windows = self.attention(windows, mask=self._parts(x, down, right))
            x = _join(windows, self.size, rows, columns).roll((down, right), (1, 2))
        return x[:, :height, :width]

    def _parts(self, x: Tensor, down: int, right: int) -> Documents:
        """The parts of each window of the rolled map: what came round from the other end is one of its own."""
        batch, rows, columns = x.shape[:3]
        below = torch.arange(rows, device=x.device) >= rows - down
        beyond = torch.arange(columns, device=x.device) >= columns - right
        parts = 2 * below.to(torch.uint8)[:, None] + beyond.to(torch.uint8)
        return Documents(_cut(parts[None, ..., None], self.size).squeeze(-1).repeat(batch, 1))

    def extra_repr(self) -> str:
        return f"size={self.size}, shift={self.shift}"


class PatchMerging(nn.Module):
    """reduction(norm(each 2×2 of a map, as one vector)), ``(b, h, w, d) → (b, ⌈h/2⌉, ⌈w/2⌉, 2d)`` (§3.1).

    The four stand in the order of the authors' code: column by column. Odd sides are filled up with zeros.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * d_model)
        self.reduction = nn.Linear(4 * d_model, 2 * d_model, bias=False)

    def forward(self, x: Float[Tensor, "b h w d"]) -> Float[Tensor, "b i j e"]:
        x = _fill(x, 2).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # b, i, row, j, column, d
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


def _fill(x: Tensor, multiple: int) -> Tensor:
    """The map with zeros below and to the right, up to the next multiple."""
    below, right = -x.shape[1] % multiple, -x.shape[2] % multiple
    return pad(x, (0, 0, 0, right, 0, below)) if below or right else x


def _cut(x: Tensor, size: int) -> Tensor:
    """The windows of a map, row by row, each with its pixels row by row: ``(b · windows, size², d)``."""
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def _join(windows: Tensor, size: int, rows: int, columns: int) -> Tensor:
    """The map of which :func:`_cut` made these windows."""
    x = windows.unflatten(1, (size, size)).unflatten(0, (-1, rows // size, columns // size))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
