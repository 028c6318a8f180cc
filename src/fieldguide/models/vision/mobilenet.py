"""MobileNet: convolutions split into one over space and one over channels, so that a phone can afford them.

v1: Howard et al. 2017, "MobileNets", table 1; v2: Sandler et al. 2018, "MobileNetV2", table 2; v3: Howard et al. 2019,
"Searching for MobileNetV3", tables 1 and 2. Against the papers: v1 clips its ReLU at 6 as its public weights do, and
its last depthwise convolution has stride 1 (the table's 2 contradicts its own sizes); dropout before the head.
"""

from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Literal, NamedTuple

from torch import nn

from fieldguide.blocks import conv
from fieldguide.blocks.pooling import GlobalAverage
from fieldguide.shapes import Float, Tensor


class Separable(NamedTuple):
    """A row of v1's table: ``repeats`` times a depthwise 3×3 and a 1×1; the first has the stride."""

    channels: int
    repeats: int
    stride: int

    def block(self, in_channels: int, out_channels: int, stride: int, width: float) -> nn.Module:
        return conv.DepthwiseSeparable(in_channels, out_channels, stride=stride)


class Inverted(NamedTuple):
    """A row of v2's table: t, c, n and s."""

    expansion: int
    channels: int
    repeats: int
    stride: int

    def block(self, in_channels: int, out_channels: int, stride: int, width: float) -> nn.Module:
        hidden = self.expansion * in_channels
        return conv.InvertedResidual(in_channels, out_channels, stride=stride, hidden_channels=hidden)


class Searched(NamedTuple):
    """A row of v3's tables: kernel, exp size, #out, SE, NL and s."""

    kernel: int
    expanded: int
    channels: int
    squeeze: bool
    activation: conv.Activation
    stride: int
    repeats: int = 1

    def block(self, in_channels: int, out_channels: int, stride: int, width: float) -> nn.Module:
        shape = (in_channels, out_channels, self.kernel, stride)
        hidden = conv.round_channels(width * self.expanded)
        squeezed = conv.round_channels(hidden / 4)
        squeeze = partial(conv.SqueezeExcitation, activation=conv.relu, gate=nn.Hardsigmoid)
        gate = squeeze(hidden, squeezed) if self.squeeze else None
        return conv.InvertedResidual(*shape, hidden_channels=hidden, activation=self.activation, gate=gate)


class Table(NamedTuple):
    """One paper's table; consecutive rows of as many channels are a stage."""

    rows: tuple[Separable | Inverted | Searched, ...]
    stem: int = 32
    stem_stride: int = 2
    activation: conv.Activation = conv.relu6  # of the stem and of all that follows the stages
    last: int | None = None  # channels of the 1×1 convolution after the stages
    last_width: float = 0.0  # the least multiplier of those
    hidden: int | None = None  # width of the linear layer before the head


RE, HS = conv.relu, conv.Hardswish
V1 = (Separable(64, 1, 1), Separable(128, 2, 2), Separable(256, 2, 2), Separable(512, 6, 2), Separable(1024, 2, 2))
V2 = (
    Inverted(1, 16, 1, 1),
    Inverted(6, 24, 2, 2),
    Inverted(6, 32, 3, 2),
    Inverted(6, 64, 4, 2),
    Inverted(6, 96, 3, 1),
    Inverted(6, 160, 3, 2),
    Inverted(6, 320, 1, 1),
)
V3_LARGE = (
    Searched(3, 16, 16, False, RE, 1),
    Searched(3, 64, 24, False, RE, 2),
    Searched(3, 72, 24, False, RE, 1),
    Searched(5, 72, 40, True, RE, 2),
    Searched(5, 120, 40, True, RE, 1, repeats=2),
    Searched(3, 240, 80, False, HS, 2),
    Searched(3, 200, 80, False, HS, 1),
    Searched(3, 184, 80, False, HS, 1, repeats=2),
    Searched(3, 480, 112, True, HS, 1),
    Searched(3, 672, 112, True, HS, 1),
    Searched(5, 672, 160, True, HS, 2),
    Searched(5, 960, 160, True, HS, 1, repeats=2),
)
V3_SMALL = (
    Searched(3, 16, 16, True, RE, 2),
    Searched(3, 72, 24, False, RE, 2),
    Searched(3, 88, 24, False, RE, 1),
    Searched(5, 96, 40, True, HS, 2),
    Searched(5, 240, 40, True, HS, 1, repeats=2),
    Searched(5, 120, 48, True, HS, 1),
    Searched(5, 144, 48, True, HS, 1),
    Searched(5, 288, 96, True, HS, 2),
    Searched(5, 576, 96, True, HS, 1, repeats=2),
)
MINI = (
    Searched(3, 64, 24, False, RE, 2),
    Searched(3, 96, 24, False, RE, 1),
    Searched(5, 96, 40, True, HS, 2),
    Searched(5, 160, 40, True, HS, 1),
)
TABLES = {
    "v1": Table(V1),
    "v2": Table(V2, last=1280, last_width=1.0),
    "v3_large": Table(V3_LARGE, stem=16, activation=conv.Hardswish, last=960, hidden=1280),
    "v3_small": Table(V3_SMALL, stem=16, activation=conv.Hardswish, last=576, hidden=1024),
    "mini": Table(MINI, stem=16, stem_stride=1, activation=conv.Hardswish, last=160, hidden=128),
}


@dataclass(frozen=True, kw_only=True)
class MobileNetConfig:
    table: Literal["v1", "v2", "v3_large", "v3_small", "mini"] = "v2"
    """Which paper's rows are built."""
    width: float = 1.0
    """The multiplier of all channels (2017, §3.3), which are then rounded to multiples of 8."""
    dropout: float = 0.2
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    padding: Literal["symmetric", "same"] = "symmetric"
    """Of strided convolutions: as PyTorch pads, or as TensorFlow does."""
    num_classes: int = 1000
    in_channels: int = 3


SIZES = {
    "mobilenet_v1": MobileNetConfig(table="v1", dropout=0.0),
    "mobilenet_v2": MobileNetConfig(),
    "mobilenet_v3_large": MobileNetConfig(table="v3_large", norm_eps=1e-3, norm_momentum=0.01),
    "mobilenet_v3_small": MobileNetConfig(table="v3_small", norm_eps=1e-3, norm_momentum=0.01),
    "mobilenet_mini": MobileNetConfig(table="mini", dropout=0.1, num_classes=10, in_channels=1),
}


class MobileNet(nn.Module):
    """``images (b, in_channels, h, w) → logits (b, num_classes)``."""

    def __init__(self, config: MobileNetConfig):
        super().__init__()
        c, table = config, TABLES[config.table]
        channels, stride = conv.round_channels(c.width * table.stem), table.stem_stride
        self.stem = conv.ConvNormAct(c.in_channels, channels, 3, stride, activation=table.activation)
        self.stages, infos = conv.Stages(), []
        for width, rows in groupby(table.rows, lambda row: row.channels):
            stage, inner = nn.Sequential(), conv.round_channels(c.width * width)
            for row in rows:
                for step in (row.stride, *[1] * (row.repeats - 1)):
                    stage.append(row.block(channels, inner, step, c.width))
                    channels, stride = inner, stride * step
            self.stages.append(stage)
            infos.append(conv.FeatureInfo(channels, stride))
        self.feature_info = tuple(infos)
        self.last, self.hidden = nn.Identity(), nn.Identity()
        if table.last:
            inputs, channels = channels, conv.round_channels(table.last * max(c.width, table.last_width))
            self.last = conv.ConvNormAct(inputs, channels, 1, activation=table.activation)
        if table.hidden:
            inputs, channels = channels, table.hidden
            self.hidden = nn.Sequential(nn.Linear(inputs, channels), table.activation())
        self.pool = GlobalAverage()
        self.dropout = nn.Dropout(c.dropout)
        self.head = nn.Linear(channels, c.num_classes)
        self.apply(conv.he_init)
        self.follow(c)

    def follow(self, config: MobileNetConfig) -> None:
        """Take over the constants of a config, which no checkpoint holds; weights stay."""
        c = self.config = config
        conv.follow_conventions(self, norm_eps=c.norm_eps, norm_momentum=c.norm_momentum, padding=c.padding)

    def _begin(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        channels, smallest = self.config.in_channels, self.feature_info[-1].stride
        return self.stem(conv.require_images(x, in_channels=channels, smallest=smallest, model="MobileNet"))

    def features(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The maps after each stage, finest first; ``feature_info`` has their channels and strides."""
        return self.stages.maps(self._begin(x))

    def classify(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits of the last map."""
        return self.head(self.dropout(self.hidden(self.pool(self.last(x)))))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.classify(self.stages(self._begin(x)))
