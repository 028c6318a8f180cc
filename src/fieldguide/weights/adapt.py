"""How a published tensor is made to fit a model of other sizes: inputs, images, lengths and vocabularies."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a published tensor is to become."""

    values: Tensor
    """The model's own tensor: it has the shape to reach, and values for what is new."""
    grid: tuple[int, int] | None = None
    """Rows and columns of the model's patches, if it has any."""
    their_grid: tuple[int, int] | None = None
    """Those of the network that the tensor comes from; a square unless given."""


def first_convolution(weight: Tensor, wanted: Wanted) -> Tensor | None:
    """A convolution ``(o, i, kh, kw)`` for another number of input channels.

    One channel: the sum over the published ones, which is exact for a grey image given i times. Others: the published
    ones in turn, scaled by i / i' so that the response to a uniform image keeps its size.
    """
    out_channels, in_channels, *kernel = wanted.values.shape
    if weight.ndim != 4 or [weight.shape[0], *weight.shape[2:]] != [out_channels, *kernel]:
        return None
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    published = weight.shape[1]
    repeated = weight.repeat(1, math.ceil(in_channels / published), 1, 1)[:, :in_channels]
    return repeated * (published / in_channels)


def class_token_and_grid(positions: Tensor, wanted: Wanted) -> Tensor | None:
    """Learned positions ``(1 + h · w, d)`` for an image of another size: the class token's stays, the grid is resized.

    Bicubic, as Dosovitskiy et al. 2021, §3.2, fine-tune at a higher resolution; smoothed where the grid shrinks.
    """
    if positions.ndim != 2 or positions.shape[1:] != wanted.values.shape[1:]:
        return None
    grid, new_grid = wanted.their_grid or square(len(positions) - 1), wanted.grid or square(len(wanted.values) - 1)
    if (1 + math.prod(grid), 1 + math.prod(new_grid)) != (len(positions), len(wanted.values)):
        return None
    return torch.cat((positions[:1], resize_grid(positions[1:], grid, new_grid)))


def offsets(table: Tensor, wanted: Wanted) -> Tensor | None:
    """Swin's scores ``((2w − 1)², heads)`` of the offsets in a window of w × w, for another window.

    Bicubic, as the authors' code for fine-tuning has it: the ends of the old window become the ends of the new.
    """
    side, new_side = (square(len(tensor)) for tensor in (table, wanted.values))
    if table.shape[1:] != wanted.values.shape[1:] or math.prod(side) != len(table):
        return None
    return resize_grid(table, side, new_side)


def resize_grid(positions: Tensor, size: tuple[int, int], new_size: tuple[int, int]) -> Tensor:
    """Positions ``(h · w, d)`` of a grid, row by row, for another grid ``(h' · w', d)``."""
    grid = positions.unflatten(0, size).to(torch.promote_types(positions.dtype, torch.float32))
    down, right = (_bicubic(*lengths, like=grid) for lengths in zip(size, new_size, strict=True))
    return torch.einsum("ih,jw,hwd->ijd", down, right, grid).flatten(0, 1).to(positions.dtype)


def square(count: int) -> tuple[int, int]:
    """The grid of so many patches that public networks have."""
    side = math.isqrt(max(1, count))
    return side, side


def _bicubic(length: int, new_length: int, *, like: Tensor) -> Tensor:
    """One side's weights, ``(new_length, length)``; torch 2.15 mistakes those of rows where the new width is 1."""
    each = torch.eye(length, dtype=like.dtype, device=like.device)[None, None]
    return functional.interpolate(each, (new_length, length), mode="bicubic", antialias=True)[0, 0]


def vocabulary(tokens: Tensor, wanted: Wanted) -> Tensor | None:
    """Rows ``(v, …)`` of tokens, vectors or shifts, for another vocabulary: the published in order, then their mean.

    The mean is what a network can say least wrongly of a token that it has never seen (Hewitt 2021).
    """
    length, *rest = wanted.values.shape
    if list(tokens.shape[1:]) != rest or not tokens.is_floating_point():
        return None
    return torch.cat((tokens[:length], tokens.mean(0, keepdim=True).expand(max(0, length - len(tokens)), *rest)))


def first_rows(table: Tensor, wanted: Wanted) -> Tensor | None:
    """Rows ``(n, …)`` of places in a text for another length: the published as far as they go, then the model's own.

    What stands before place 0, as RoBERTa's rows for padding do, is among the first. A place that the published
    network never saw begins at random and must be trained.
    """
    own = wanted.values
    if table.shape[1:] != own.shape[1:] or (own.is_meta and not table.is_meta):
        return None
    return torch.cat((table[: len(own)], own[len(table) :].to(table)))
