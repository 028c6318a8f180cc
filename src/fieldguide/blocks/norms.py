"""Normalisation. All take channels first, ``(b, c)``, ``(b, c, n)`` to ``(b, c, t, h, w)``, unless they say otherwise.

On the last axis (tokens) PyTorch's own ``LayerNorm(d)`` (Ba et al. 2016) and ``RMSNorm(d, eps)`` (Zhang & Sennrich
2019) are the ones to use and are named here for completeness; ``ChannelFirst`` turns them to axis 1.

b batch · c channels.
"""

from collections.abc import Callable

from torch import nn
from torch.nn import LayerNorm, RMSNorm
from torch.nn.modules.batchnorm import _BatchNorm

from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor

__all__ = ["BatchNorm", "ChannelFirst", "GroupNorm", "LayerNorm", "Norm", "RMSNorm"]

Norm = Callable[[int], nn.Module]
"""Builds a normalisation for a width: ``nn.LayerNorm``, ``nn.BatchNorm2d``, ``partial(GroupNorm, 32)``, …"""


class ChannelFirst(nn.Module):
    """A last-axis norm on axis 1: ``ChannelFirst(LayerNorm(64))`` normalises each position over its channels."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.norm = norm

    def forward(self, x: Float[Tensor, "b c *spatial"]) -> Float[Tensor, "b c *spatial"]:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class BatchNorm(_BatchNorm):
    """Each channel normalised over batch and positions (Ioffe & Szegedy 2015, alg. 1), for data of any dimension.

    Raises :class:`FieldguideError` when the channels do not agree, or when training sees one value per channel.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2 or input.shape[1] != self.num_features:
            raise FieldguideError(_mismatch("BatchNorm", self.num_features, input))
        if self.training and input.numel() == self.num_features:
            raise FieldguideError(
                f"BatchNorm({self.num_features}): one value per channel in {tuple(input.shape)} has no variance; "
                "train with a larger batch or call model.eval()"
            )


class GroupNorm(nn.GroupNorm):
    """Each group of channels normalised within its sample (Wu & He 2018, eq. 7), for data of any dimension.

    Raises :class:`FieldguideError` when the groups do not divide the channels, or the channels do not agree.
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True):
        if num_channels % num_groups:
            divisors = [groups for groups in range(1, num_channels + 1) if num_channels % groups == 0]
            nearest = min(divisors, key=lambda groups: abs(groups - num_groups))
            raise FieldguideError(
                f"GroupNorm: {num_channels} channels cannot be split into {num_groups} equal groups; "
                f"use num_groups={nearest}"
            )
        super().__init__(num_groups, num_channels, eps, affine)

    def forward(self, input: Float[Tensor, "b c *spatial"]) -> Float[Tensor, "b c *spatial"]:
        if input.ndim < 2 or input.shape[1] != self.num_channels:
            raise FieldguideError(_mismatch("GroupNorm", self.num_channels, input))
        return super().forward(input)


def _mismatch(module: str, channels: int, x: Tensor) -> str:
    return f"{module} was built for {channels} channels, got {tuple(x.shape)}; its axis 1 must have {channels}"
