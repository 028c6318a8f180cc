"""How a published tensor is made to fit a model with other inputs."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def first_convolution(weight: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """A convolution ``(o, i, kh, kw)`` for another number of input channels.

    One channel: the sum over the published ones, which is exact for a grey image given i times. Others: the published
    ones in turn, scaled by i / i' so that the response to a uniform image keeps its size.
    """
    out_channels, in_channels, *kernel = shape
    if weight.ndim != 4 or [weight.shape[0], *weight.shape[2:]] != [out_channels, *kernel]:
        return None
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    published = weight.shape[1]
    repeated = weight.repeat(1, math.ceil(in_channels / published), 1, 1)[:, :in_channels]
    return repeated * (published / in_channels)


def class_token_and_grid(positions: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """Learned positions ``(1 + side², d)`` for another square image: the class token's stays, the grid is resized.

    Bicubic, as Dosovitskiy et al. 2021, §3.2, fine-tune at a higher resolution; smoothed where the grid shrinks.
    """
    if positions.ndim != 2 or positions.shape[1:] != shape[1:]:
        return None
    side, new_side = (math.isqrt(max(0, length - 1)) for length in (len(positions), shape[0]))
    if not side or not new_side or (1 + side**2, 1 + new_side**2) != (len(positions), shape[0]):
        return None
    return torch.cat((positions[:1], resize_grid(positions[1:], (side, side), (new_side, new_side))))


def resize_grid(positions: Tensor, size: tuple[int, int], new_size: tuple[int, int]) -> Tensor:
    """Positions ``(h · w, d)`` of a grid, row by row, for another grid ``(h' · w', d)``."""
    grid = positions.unflatten(0, size).to(torch.promote_types(positions.dtype, torch.float32))
    down, right = (_bicubic(*lengths, like=grid) for lengths in zip(size, new_size, strict=True))
    return torch.einsum("ih,jw,hwd->ijd", down, right, grid).flatten(0, 1).to(positions.dtype)


def _bicubic(length: int, new_length: int, *, like: Tensor) -> Tensor:
    """One side's weights, ``(new_length, length)``; torch 2.15 mistakes those of rows where the new width is 1."""
    each = torch.eye(length, dtype=like.dtype, device=like.device)[None, None]
    return functional.interpolate(each, (new_length, length), mode="bicubic", antialias=True)[0, 0]


def vocabulary(tokens: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """Token vectors ``(v, d)`` for another vocabulary: the published ones in order; each new one is their mean.

    The mean is what a network can say least wrongly of a token that it has never seen (Hewitt 2021).
    """
    if tokens.ndim != 2 or tokens.shape[1:] != shape[1:]:
        return None
    new = tokens.mean(0, keepdim=True).expand(max(0, shape[0] - len(tokens)), -1)
    return torch.cat((tokens[: shape[0]], new))
