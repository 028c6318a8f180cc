"""Parallel branches, and networks written as tables whose layers learn what comes in only when they are built.

::

    table = branches(path(conv(64)), path(conv(48), conv(64, 5)), path(keep(nn.Identity), conv(32)))
    module, out_channels = table(Style(), 192)

b batch · c, d channels · h, w, i, j height and width.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from fieldguide.blocks.conv import ConvNormAct, relu
from fieldguide.blocks.norms import Norm
from fieldguide.shapes import Float, Tensor


class Branches(nn.ModuleList):
    """What several modules make of one map, concatenated along the channels (Szegedy et al. 2015, fig. 2)."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return torch.cat([branch(x) for branch in self], dim=1)


@dataclass(frozen=True, kw_only=True)
class Style:
    """What all layers of a table have in common."""

    width: float = 1.0
    """Every number of channels in the table is multiplied by this."""
    norm: Norm = nn.BatchNorm2d

    def channels(self, number: int) -> int:
        return max(1, round(self.width * number))


Layer = Callable[[Style, int], tuple[nn.Module, int]]
"""``(style, channels that come in) → (module, channels that go out)``."""


def conv(channels: int, kernel_size: int | tuple[int, int] = 1, stride: int = 1, padding: int | None = None) -> Layer:
    """A :class:`ConvNormAct`."""

    def build(style: Style, in_channels: int) -> tuple[nn.Module, int]:
        out = style.channels(channels)
        return ConvNormAct(in_channels, out, kernel_size, stride, padding=padding, norm=style.norm), out

    return build


def keep(build: Callable[[], nn.Module]) -> Layer:
    """A module that keeps the number of channels: a pooling, an activation."""
    return lambda _, in_channels: (build(), in_channels)


def hidden(channels: int, positions: int) -> Layer:
    """A fully connected layer over all ``positions`` of a map, and a ReLU; a vector comes out."""

    def build(style: Style, in_channels: int) -> tuple[nn.Module, int]:
        out = style.channels(channels)
        return nn.Sequential(nn.Flatten(), nn.Linear(positions * in_channels, out), relu()), out

    return build


def named(layers: Mapping[str, Layer]) -> Layer:
    """Layers in turn, under these names."""

    def build(style: Style, channels: int) -> tuple[nn.Module, int]:
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        for name, layer in layers.items():
            modules[name], channels = layer(style, channels)
        return nn.Sequential(modules), channels

    return build


def path(*layers: Layer) -> Layer:
    """Layers in turn, numbered from 0."""
    return named({str(number): layer for number, layer in enumerate(layers)})


def branches(*paths: Layer) -> Layer:
    """Layers side by side: :class:`Branches`."""

    def build(style: Style, in_channels: int) -> tuple[nn.Module, int]:
        modules, widths = zip(*(path(style, in_channels) for path in paths), strict=True)
        return Branches(modules), sum(widths)

    return build
