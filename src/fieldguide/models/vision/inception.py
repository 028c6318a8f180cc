"""Inception: filters of several sizes side by side, so that one module sees details and wholes.

GoogLeNet: Szegedy et al. 2015, "Going Deeper with Convolutions", table 1 and §5; Inception v3: Szegedy et al. 2016,
"Rethinking the Inception Architecture for Computer Vision", table 1. Both are as their public weights need them.
Against the first paper: batch norm for local response norm, dropout 0.2 for 0.4, adaptive pooling before the auxiliary
classifiers, and the 5×5 of every module is a 3×3, an error of the public port that its weights were made with.
Against the second: the stem has a 1×1 convolution and a second pooling, and the 35×35 modules keep one 5×5.
The public weights want pixels scaled to [−1, 1] (mean = std = 0.5); the network itself transforms nothing.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal, NamedTuple

from torch import nn

from fieldguide.blocks.branches import Layer, Style, branches, conv, hidden, keep, named, path
from fieldguide.blocks.conv import FeatureInfo, Stages, he_init, require_images
from fieldguide.blocks.pooling import AtLeast, GlobalAverage
from fieldguide.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class InceptionConfig:
    version: Literal[1, 3] = 1
    """1 is GoogLeNet, 3 the network of 2016."""
    width: float = 1.0
    """Every number of channels in the paper's table is multiplied by this."""
    stem_stride: Literal[1, 8] = 8
    """8 is the paper's stem for photographs, 1 a single 3×3 convolution for small images."""
    auxiliary: bool = True
    """Whether there are classifiers on inner maps, which only training uses."""
    auxiliary_weight: float = 0.3
    """Of their losses: 0.3 in 2015, §5; 0.4 in the code that Google released for v3, whose paper does not say."""
    auxiliary_dropout: float = 0.7
    dropout: float = 0.2
    norm_eps: float = 1e-3
    num_classes: int = 1000
    in_channels: int = 3


SIZES = {
    "googlenet": InceptionConfig(),
    "inception_v3": InceptionConfig(version=3, auxiliary_weight=0.4, auxiliary_dropout=0.0, dropout=0.5),
    "inception_mini": InceptionConfig(width=1 / 8, stem_stride=1, auxiliary=False, num_classes=10, in_channels=1),
}

valid = partial(conv, padding=0)
halve = keep(partial(nn.MaxPool2d, 3, stride=2))
halve_up = keep(partial(nn.MaxPool2d, 3, stride=2, ceil_mode=True))
largest = keep(partial(nn.MaxPool2d, 3, stride=1, padding=1))
average = keep(partial(nn.AvgPool2d, 3, stride=1, padding=1))


def mixed(one: int, reduce3: int, three: int, reduce5: int, five: int, project: int) -> Layer:
    """2015, fig. 2b; the arguments are a row of table 1."""
    return branches(
        path(conv(one)),
        path(conv(reduce3), conv(three, 3)),
        path(conv(reduce5), conv(five, 3)),
        path(largest, conv(project)),
    )


def figure_5(project: int) -> Layer:
    """2016, for 35×35 maps: a 5×5 as two 3×3."""
    deep = path(conv(64), conv(96, 3), conv(96, 3))
    return branches(path(conv(64)), path(conv(48), conv(64, 5)), deep, path(average, conv(project)))


def figure_6(n: int) -> Layer:
    """2016, for 17×17 maps: a 7×7 as 1×7 and 7×1, of ``n`` channels on the way."""
    once = path(conv(n), conv(n, (1, 7)), conv(192, (7, 1)))
    twice = path(conv(n), conv(n, (7, 1)), conv(n, (1, 7)), conv(n, (7, 1)), conv(192, (1, 7)))
    return branches(path(conv(192)), once, twice, path(average, conv(192)))


def figure_7() -> Layer:
    """2016, for 8×8 maps: a 3×3 as 1×3 beside 3×1, wide where the map is coarsest."""
    split = branches(conv(384, (1, 3)), conv(384, (3, 1)))
    return branches(
        path(conv(320)), path(conv(384), split), path(conv(448), conv(384, 3), split), path(average, conv(192))
    )


class Table(NamedTuple):
    """Table 1 of a paper."""

    stems: Mapping[int, tuple[Layer, int]]
    """Stride → the stem, and the smallest image that leaves something for the last stage."""
    stages: tuple[Mapping[str, Layer], ...]
    """The modules by the names that the paper or its code gives them."""
    auxiliary: Mapping[str, int]
    """The modules whose map an auxiliary classifier looks at, and the channels of that map."""
    auxiliary_body: Layer
    """What stands between such a map and the classifier."""


GOOGLENET = Table(
    stems={8: (path(conv(64, 7, 2), halve_up, conv(64), conv(192, 3), halve_up), 15), 1: (conv(192, 3), 2)},
    stages=(
        {"3a": mixed(64, 96, 128, 16, 32, 32), "3b": mixed(128, 128, 192, 32, 96, 64)},
        {
            "pool": halve_up,
            "4a": mixed(192, 96, 208, 16, 48, 64),
            "4b": mixed(160, 112, 224, 24, 64, 64),
            "4c": mixed(128, 128, 256, 24, 64, 64),
            "4d": mixed(112, 144, 288, 32, 64, 64),
            "4e": mixed(256, 160, 320, 32, 128, 128),
        },
        {
            "pool": keep(partial(nn.MaxPool2d, 2, stride=2, ceil_mode=True)),
            "5a": mixed(256, 160, 320, 32, 128, 128),
            "5b": mixed(384, 192, 384, 48, 128, 128),
        },
    ),
    auxiliary={"4a": 512, "4d": 528},
    auxiliary_body=path(keep(partial(nn.AdaptiveAvgPool2d, 4)), conv(128), hidden(1024, positions=16)),
)

INCEPTION_V3 = Table(
    stems={
        8: (path(valid(32, 3, 2), valid(32, 3), conv(64, 3), halve, conv(80), valid(192, 3), halve), 75),
        1: (conv(192, 3), 7),
    },
    stages=(
        {"5b": figure_5(32), "5c": figure_5(64), "5d": figure_5(64)},
        {
            "6a": branches(path(valid(384, 3, 2)), path(conv(64), conv(96, 3), valid(96, 3, 2)), halve),  # fig. 10
            **{"6b": figure_6(128), "6c": figure_6(160), "6d": figure_6(160), "6e": figure_6(192)},
        },
        {
            "7a": branches(
                path(conv(192), valid(320, 3, 2)),
                path(conv(192), conv(192, (1, 7)), conv(192, (7, 1)), valid(192, 3, 2)),
                halve,
            ),
            **{"7b": figure_7(), "7c": figure_7()},
        },
    ),
    auxiliary={"6e": 768},
    # A 5×5 map, as the paper has it for images of 299 pixels; smaller ones are enlarged to it.
    auxiliary_body=path(
        keep(partial(AtLeast, 17)), keep(partial(nn.AvgPool2d, 5, 3)), conv(128), valid(768, 5), keep(GlobalAverage)
    ),
)


class Inception(nn.Module):
    """``images (b, in_channels, h, w) → logits (b, num_classes)``."""

    def __init__(self, config: InceptionConfig):
        super().__init__()
        c = self.config = config
        table = {1: GOOGLENET, 3: INCEPTION_V3}[c.version]
        style = Style(width=c.width, norm=partial(nn.BatchNorm2d, eps=c.norm_eps))
        stem, self.smallest = table.stems[c.stem_stride]
        self.stem, channels = stem(style, c.in_channels)
        stages, widths = [], []
        for modules in table.stages:
            stage, channels = named(modules)(style, channels)
            stages.append(stage)
            widths.append(channels)
        self.stages = Stages(*stages)
        self.feature_info = tuple(FeatureInfo(width, c.stem_stride * 2**n) for n, width in enumerate(widths))
        self.auxiliary, self.auxiliary_weight = nn.ModuleDict(), c.auxiliary_weight
        for name, inner in table.auxiliary.items() if c.auxiliary else ():
            body, width = table.auxiliary_body(style, style.channels(inner))
            parts = {"body": body, "dropout": nn.Dropout(c.auxiliary_dropout), "head": nn.Linear(width, c.num_classes)}
            self.auxiliary[name] = nn.Sequential(OrderedDict(parts))
        self.pool, self.dropout = GlobalAverage(), nn.Dropout(c.dropout)
        self.head = nn.Linear(channels, c.num_classes)
        self.apply(he_init)

    def _begin(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        images = require_images(x, in_channels=self.config.in_channels, smallest=self.smallest, model="Inception")
        return self.stem(images)

    def features(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The maps after each stage, finest first; v3's unpadded convolutions leave fewer pixels than side / stride."""
        return self.stages.maps(self._begin(x))

    def classify(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits of the last map."""
        return self.head(self.dropout(self.pool(x)))

    def deep_supervision(self, x: Float[Tensor, "b c h w"]) -> tuple[Tensor, ...]:
        """What training compares with the targets: the logits, then those of each auxiliary classifier."""
        x, auxiliary = self._begin(x), []
        for name, module in chain.from_iterable(stage.named_children() for stage in self.stages):
            x = module(x)
            if name in self.auxiliary:
                auxiliary.append(self.auxiliary[name](x))
        return self.classify(x), *auxiliary

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.classify(self.stages(self._begin(x)))
