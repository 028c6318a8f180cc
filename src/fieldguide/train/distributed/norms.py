"""Batch norms whose batch is that of all processes together (Ioffe & Szegedy 2015, Alg. 1)."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Sum.forward(ctx, gradient.contiguous())


@contextmanager
def synchronised(model: nn.Module) -> Iterator[list[_BatchNorm]]:
    """Lets the batch norms of a model, which it gives, see all processes' inputs while they train.

    torch's own can on GPUs only.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        # An attribute of this one module, found before its class's method and gone afterwards.
        object.__setattr__(norm, "forward", partial(_forward, norm))
    try:
        yield norms
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)


def _forward(norm: _BatchNorm, x: Tensor) -> Tensor:
    if not norm.training:
        return type(norm).forward(norm, x)
    axes = [0, *range(2, x.ndim)]
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    count = Sum.apply(wide.new_tensor(x.numel() / x.shape[1]))
    mean = Sum.apply(wide.sum(axes)) / count
    shape = [1, -1, *[1] * (x.ndim - 2)]
    centred = wide - mean.view(shape)
    variance = Sum.apply((centred * centred).sum(axes)) / count
    if norm.track_running_stats:
        _remember(norm, mean.detach(), (variance * count / (count - 1)).detach())
    y = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    return y.to(x.dtype)


@torch.no_grad()
def _remember(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked += 1
    new = norm.momentum
    if new is None:  # torch's word for a plain mean
        assert norm.num_batches_tracked is not None
        new = 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean), new)
    norm.running_var.lerp_(variance.to(norm.running_var), new)
