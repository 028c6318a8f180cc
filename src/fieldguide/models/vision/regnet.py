"""RegNet: networks whose widths follow one straight line, which is what the best of many thousand networks share.

Radosavovic, Kosaraju, Girshick, He & Dollár 2020, "Designing Network Design Spaces", §3.3 and §5. X is the plain
network, Y adds squeeze-and-excitation. Against the paper: a width becomes a multiple of the group width as in
torchvision, which differs for regnet_x_400mf, regnet_y_800mf and regnet_y_8gf; ``rounding="paper"`` is the authors'.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from fieldguide.blocks.conv import (
    Bottleneck,
    ConvNormAct,
    FeatureInfo,
    SqueezeExcitation,
    Stages,
    he_init,
    require_images,
)
from fieldguide.blocks.pooling import GlobalAverage
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class RegNetConfig:
    depth: int = 22
    """Blocks in all stages together, d."""
    w_0: int = 24
    """The line's width at the first block, a multiple of 8."""
    w_a: float = 24.48
    """What the line's width gains with each block."""
    w_m: float = 2.54
    """The factor between the widths of neighbouring stages, before rounding."""
    group_width: int = 16
    """Channels in a group of the 3×3 convolutions, g."""
    se_ratio: float = 0.0
    """Hidden channels of squeeze-and-excitation per channel that enters the block; 0 has none (X), 1/4 is Y."""
    rounding: Literal["torchvision", "paper"] = "torchvision"
    """How stages' widths become multiples of the group width; public checkpoints follow either."""
    stem_width: int = 32
    stem_stride: int = 2
    """1 suits small images."""
    num_classes: int = 1000
    in_channels: int = 3


SIZES = {
    "regnet_x_400mf": RegNetConfig(depth=22, w_0=24, w_a=24.48, w_m=2.54, group_width=16),
    "regnet_x_800mf": RegNetConfig(depth=16, w_0=56, w_a=35.73, w_m=2.28, group_width=16),
    "regnet_x_1_6gf": RegNetConfig(depth=18, w_0=80, w_a=34.01, w_m=2.25, group_width=24),
    "regnet_x_3_2gf": RegNetConfig(depth=25, w_0=88, w_a=26.31, w_m=2.25, group_width=48),
    "regnet_x_8gf": RegNetConfig(depth=23, w_0=80, w_a=49.56, w_m=2.88, group_width=120),
    "regnet_x_16gf": RegNetConfig(depth=22, w_0=216, w_a=55.59, w_m=2.1, group_width=128),
    "regnet_x_32gf": RegNetConfig(depth=23, w_0=320, w_a=69.86, w_m=2.0, group_width=168),
    "regnet_y_400mf": RegNetConfig(depth=16, w_0=48, w_a=27.89, w_m=2.09, group_width=8, se_ratio=0.25),
    "regnet_y_800mf": RegNetConfig(depth=14, w_0=56, w_a=38.84, w_m=2.4, group_width=16, se_ratio=0.25),
    "regnet_y_1_6gf": RegNetConfig(depth=27, w_0=48, w_a=20.71, w_m=2.65, group_width=24, se_ratio=0.25),
    "regnet_y_3_2gf": RegNetConfig(depth=21, w_0=80, w_a=42.63, w_m=2.66, group_width=24, se_ratio=0.25),
    "regnet_y_8gf": RegNetConfig(depth=17, w_0=192, w_a=76.82, w_m=2.19, group_width=56, se_ratio=0.25),
    "regnet_y_16gf": RegNetConfig(depth=18, w_0=200, w_a=106.23, w_m=2.48, group_width=112, se_ratio=0.25),
    "regnet_y_32gf": RegNetConfig(depth=20, w_0=232, w_a=115.89, w_m=2.53, group_width=232, se_ratio=0.25),
    "regnet_mini": RegNetConfig(
        depth=5, w_0=24, w_a=18.0, w_m=2.0, group_width=8, se_ratio=0.25,
        stem_width=24, stem_stride=1, num_classes=10, in_channels=1,
    ),
}  # fmt: skip


def _nearest(width: int, group: int) -> int:
    """The nearest multiple; of two equally near ones that of an even number of groups."""
    return round(width / group) * group


def _nine_tenths(width: int, group: int) -> int:
    """The nearest multiple, of two equally near ones the larger; the next when that would lose more than a tenth."""
    nearest = math.floor(width / group + 0.5) * group
    return nearest + group * (nearest < 0.9 * width)


ROUNDING: dict[str, Callable[[int, int], int]] = {"torchvision": _nine_tenths, "paper": _nearest}


def stage_shapes(c: RegNetConfig) -> list[tuple[int, int]]:
    """The quantised linear rule (eq. 2–4): ``(depth, width)`` of each stage, the blocks whose widths round alike.

    Raises :class:`FieldguideError` for numbers that describe no growing line.
    """
    if c.depth < 1 or c.w_0 < 8 or c.w_0 % 8 or c.w_a < 0 or c.w_m <= 1 or c.group_width < 1:
        raise FieldguideError(
            f"RegNet: depth={c.depth} and group_width={c.group_width} must be positive, w_0={c.w_0} a positive "
            f"multiple of 8, w_a={c.w_a} at least 0 and w_m={c.w_m} above 1"
        )
    line = [c.w_0 + c.w_a * block for block in range(c.depth)]
    steps = [round(math.log(width / c.w_0) / math.log(c.w_m)) for width in line]
    widths = Counter(8 * round(c.w_0 * c.w_m**step / 8) for step in steps)
    fit = ROUNDING[c.rounding]
    return [(depth, fit(width, min(c.group_width, width))) for width, depth in widths.items()]


class RegNet(nn.Module):
    """``images (b, in_channels, h, w) → logits (b, num_classes)``."""

    def __init__(self, config: RegNetConfig):
        super().__init__()
        c = self.config = config
        shapes = stage_shapes(c)
        self.stem = ConvNormAct(c.in_channels, c.stem_width, 3, c.stem_stride)
        self.feature_info = tuple(
            FeatureInfo(width, c.stem_stride * 2 ** (stage + 1)) for stage, (_, width) in enumerate(shapes)
        )
        inputs = (c.stem_width, *(width for _, width in shapes))
        self.stages = Stages(
            *(
                nn.Sequential(
                    self._block(c, inputs[stage], width, stride=2),
                    *(self._block(c, width, width) for _ in range(depth - 1)),
                )
                for stage, (depth, width) in enumerate(shapes)
            )
        )
        self.pool = GlobalAverage()
        self.head = nn.Linear(inputs[-1], c.num_classes)
        self.apply(he_init)

    @staticmethod
    def _block(c: RegNetConfig, in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
        """A bottleneck of ratio 1, so as wide inside as outside."""
        groups = out_channels // min(c.group_width, out_channels)
        gate = SqueezeExcitation(out_channels, round(in_channels * c.se_ratio)) if c.se_ratio else None
        return Bottleneck(in_channels, out_channels, stride, inner_channels=out_channels, groups=groups, gate=gate)

    def _begin(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        smallest = self.feature_info[-1].stride
        return self.stem(require_images(x, in_channels=self.config.in_channels, smallest=smallest, model="RegNet"))

    def features(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The maps after each stage, finest first; ``feature_info`` has their channels and strides."""
        return self.stages.maps(self._begin(x))

    def classify(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits of the last map."""
        return self.head(self.pool(x))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.classify(self.stages(self._begin(x)))
