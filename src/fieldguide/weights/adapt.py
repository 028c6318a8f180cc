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
    grid = positions[1:].float().T.reshape(1, -1, side, side)
    resized = functional.interpolate(grid, (new_side, new_side), mode="bicubic", antialias=True)
    return torch.cat((positions[:1], resized[0].flatten(1).T.to(positions.dtype)))
