"""EfficientNet: depth, width and image side grow together, from one small network that a search found.

Tan & Le 2019, "EfficientNet", table 1 and eq. 3 (b0 … b7); Tan & Le 2021, "EfficientNetV2", table 4 (v2_s, v2_m, v2_l).
Against the papers: stochastic depth begins at 0 and grows to just below its rate, as in the public weights' networks.
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal, NamedTuple

from torch import nn

from fieldguide.blocks import conv
from fieldguide.blocks.pooling import GlobalAverage
from fieldguide.shapes import Float, Tensor


class MBConv(NamedTuple):
    """A row: ``layers`` inverted bottlenecks with squeeze-and-excitation, the first with the stride."""

    expansion: int
    kernel: int
    stride: int
    channels: int
    layers: int

    def block(self, in_channels: int, out_channels: int, stride: int, drop: float) -> nn.Module:
        shape, hidden = (in_channels, out_channels, self.kernel, stride), self.expansion * in_channels
        gate = conv.SqueezeExcitation(hidden, in_channels // 4, activation=conv.SiLU)
        return conv.InvertedResidual(*shape, hidden_channels=hidden, activation=conv.SiLU, gate=gate, drop=drop)


class FusedMBConv(NamedTuple):
    """A row of blocks whose expansion and depthwise convolution are one dense convolution."""

    expansion: int
    kernel: int
    stride: int
    channels: int
    layers: int

    def block(self, in_channels: int, out_channels: int, stride: int, drop: float) -> nn.Module:
        shape, hidden = (in_channels, out_channels, self.kernel, stride), self.expansion * in_channels
        return conv.FusedInvertedResidual(*shape, hidden_channels=hidden, drop=drop)


class Table(NamedTuple):
    """One paper's table; a row is a stage."""

    rows: tuple[MBConv | FusedMBConv, ...]
    stem: int
    stem_stride: int = 2
    last: int = 1280  # channels of the 1×1 convolution after the stages


B0 = (
    MBConv(1, 3, 1, 16, 1),
    MBConv(6, 3, 2, 24, 2),
    MBConv(6, 5, 2, 40, 2),
    MBConv(6, 3, 2, 80, 3),
    MBConv(6, 5, 1, 112, 3),
    MBConv(6, 5, 2, 192, 4),
    MBConv(6, 3, 1, 320, 1),
)
V2_S = (
    FusedMBConv(1, 3, 1, 24, 2),
    FusedMBConv(4, 3, 2, 48, 4),
    FusedMBConv(4, 3, 2, 64, 4),
    MBConv(4, 3, 2, 128, 6),
    MBConv(6, 3, 1, 160, 9),
    MBConv(6, 3, 2, 256, 15),
)
V2_M = (
    FusedMBConv(1, 3, 1, 24, 3),
    FusedMBConv(4, 3, 2, 48, 5),
    FusedMBConv(4, 3, 2, 80, 5),
    MBConv(4, 3, 2, 160, 7),
    MBConv(6, 3, 1, 176, 14),
    MBConv(6, 3, 2, 304, 18),
    MBConv(6, 3, 1, 512, 5),
)
V2_L = (
    FusedMBConv(1, 3, 1, 32, 4),
    FusedMBConv(4, 3, 2, 64, 7),
    FusedMBConv(4, 3, 2, 96, 7),
    MBConv(4, 3, 2, 192, 10),
    MBConv(6, 3, 1, 224, 19),
    MBConv(6, 3, 2, 384, 25),
    MBConv(6, 3, 1, 640, 7),
)
MINI = (FusedMBConv(1, 3, 1, 16, 1), FusedMBConv(4, 3, 2, 24, 1), MBConv(4, 3, 2, 48, 2))
TABLES = {
    "b0": Table(B0, stem=32),
    "v2_s": Table(V2_S, stem=24),
    "v2_m": Table(V2_M, stem=24),
    "v2_l": Table(V2_L, stem=32),
    "mini": Table(MINI, stem=16, stem_stride=1, last=192),
}


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    table: Literal["b0", "v2_s", "v2_m", "v2_l", "mini"] = "b0"
    """Which paper's rows are built."""
    width: float = 1.0
    """The multiplier of all channels (eq. 3), which are then rounded to multiples of 8."""
    depth: float = 1.0
    """The multiplier of all rows' layers (eq. 3), which are then rounded up."""
    dropout: float = 0.2
    stochastic_depth: float = 0.2
    """The rate that the last block's branch approaches; it grows with depth."""
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    padding: Literal["symmetric", "same"] = "symmetric"
    """Of strided convolutions: as PyTorch pads, or as TensorFlow does."""
    num_classes: int = 1000
    in_channels: int = 3


def _large(width: float, depth: float, dropout: float) -> EfficientNetConfig:
    return EfficientNetConfig(width=width, depth=depth, dropout=dropout, norm_eps=1e-3, norm_momentum=0.01)


SIZES = {
    "efficientnet_b0": EfficientNetConfig(),  # for images of 224 pixels
    "efficientnet_b1": EfficientNetConfig(depth=1.1),  # 240
    "efficientnet_b2": EfficientNetConfig(width=1.1, depth=1.2, dropout=0.3),  # 260
    "efficientnet_b3": EfficientNetConfig(width=1.2, depth=1.4, dropout=0.3),  # 300
    "efficientnet_b4": EfficientNetConfig(width=1.4, depth=1.8, dropout=0.4),  # 380
    "efficientnet_b5": _large(width=1.6, depth=2.2, dropout=0.4),  # 456
    "efficientnet_b6": _large(width=1.8, depth=2.6, dropout=0.5),  # 528
    "efficientnet_b7": _large(width=2.0, depth=3.1, dropout=0.5),  # 600
    "efficientnet_v2_s": EfficientNetConfig(table="v2_s", dropout=0.2, norm_eps=1e-3),  # 384
    "efficientnet_v2_m": EfficientNetConfig(table="v2_m", dropout=0.3, norm_eps=1e-3),  # 480
    "efficientnet_v2_l": EfficientNetConfig(table="v2_l", dropout=0.4, norm_eps=1e-3),  # 480
    "efficientnet_mini": EfficientNetConfig(
        table="mini", dropout=0.1, stochastic_depth=0.1, num_classes=10, in_channels=1
    ),
}


class EfficientNet(nn.Module):
    """``images (b, in_channels, h, w) → logits (b, num_classes)``."""

    def __init__(self, config: EfficientNetConfig):
        super().__init__()
        c, table = config, TABLES[config.table]
        depths = [ceil(c.depth * row.layers) for row in table.rows]
        rates = (c.stochastic_depth * block / sum(depths) for block in range(sum(depths)))
        channels, stride = conv.round_channels(c.width * table.stem), table.stem_stride
        self.stem = conv.ConvNormAct(c.in_channels, channels, 3, stride, activation=conv.SiLU)
        self.stages, infos = conv.Stages(), []
        for row, depth in zip(table.rows, depths, strict=True):
            stage, inner = nn.Sequential(), conv.round_channels(c.width * row.channels)
            for step in (row.stride, *[1] * (depth - 1)):
                stage.append(row.block(channels, inner, step, next(rates)))
                channels, stride = inner, stride * step
            self.stages.append(stage)
            infos.append(conv.FeatureInfo(channels, stride))
        self.feature_info = tuple(infos)
        last = conv.round_channels(c.width * table.last)
        self.last = conv.ConvNormAct(channels, last, 1, activation=conv.SiLU)
        self.pool = GlobalAverage()
        self.dropout = nn.Dropout(c.dropout)
        self.head = nn.Linear(last, c.num_classes)
        self.apply(conv.he_init)
        self.follow(c)

    def follow(self, config: EfficientNetConfig) -> None:
        """Take over the constants of a config, which no checkpoint holds; weights stay."""
        c = self.config = config
        conv.follow_conventions(self, norm_eps=c.norm_eps, norm_momentum=c.norm_momentum, padding=c.padding)

    def _begin(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        channels, smallest = self.config.in_channels, self.feature_info[-1].stride
        return self.stem(conv.require_images(x, in_channels=channels, smallest=smallest, model="EfficientNet"))

    def features(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The maps after each stage, finest first; ``feature_info`` has their channels and strides."""
        return self.stages.maps(self._begin(x))

    def classify(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits of the last map."""
        return self.head(self.dropout(self.pool(self.last(x))))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.classify(self.stages(self._begin(x)))
