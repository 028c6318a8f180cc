"""ResNet: blocks that learn a change to their input, so that depth no longer hurts.

He, Zhang, Ren & Sun 2016, "Deep Residual Learning for Image Recognition", table 1; ResNeXt: Xie et al. 2017, table 1;
wide ResNet: Zagoruyko & Komodakis 2016; the ``_cifar`` sizes are §4.2's for images of 32×32, 6n + 2 layers deep.
Against the paper: the stride of a bottleneck is on its 3×3 ("v1.5").
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from fieldguide.blocks.conv import (
    BasicBlock,
    Bottleneck,
    ConvNormAct,
    FeatureInfo,
    Stages,
    he_init,
    projection,
    require_images,
    subsample,
)
from fieldguide.blocks.pooling import GlobalAverage
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    depths: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks in each stage; every stage but the first begins with stride 2."""
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    """Channels that each stage puts out."""
    reduction: int = 4
    """A bottleneck's 3×3 has the output channels divided by this; 1 is the basic block of two 3×3."""
    groups: int = 1
    """ResNeXt's cardinality."""
    stem: Literal["7x7", "3x3"] = "7x7"
    """7×7 of stride 2 with max pooling for photographs, 3×3 of stride 1 for small images (§4.2)."""
    stem_width: int = 64
    shortcut: Literal["projection", "subsample"] = "projection"
    """What stands for the input where its shape changes: options B and A of §3.3."""
    num_classes: int = 1000
    in_channels: int = 3


def _cifar(n: int) -> ResNetConfig:
    """3 stages of n blocks of two layers (§4.2)."""
    return ResNetConfig(
        depths=(n, n, n), widths=(16, 32, 64), reduction=1, stem="3x3", stem_width=16, shortcut="subsample",
        num_classes=10,
    )  # fmt: skip


SIZES = {
    "resnet18": ResNetConfig(depths=(2, 2, 2, 2), widths=(64, 128, 256, 512), reduction=1),
    "resnet34": ResNetConfig(widths=(64, 128, 256, 512), reduction=1),
    "resnet50": ResNetConfig(),
    "resnet101": ResNetConfig(depths=(3, 4, 23, 3)),
    "resnet152": ResNetConfig(depths=(3, 8, 36, 3)),
    "resnext50_32x4d": ResNetConfig(reduction=2, groups=32),
    "wide_resnet50_2": ResNetConfig(reduction=2),
    "resnet20_cifar": _cifar(3),
    "resnet32_cifar": _cifar(5),
    "resnet44_cifar": _cifar(7),
    "resnet56_cifar": _cifar(9),
    "resnet_mini": ResNetConfig(
        depths=(1, 1, 1), widths=(16, 32, 64), reduction=1, stem="3x3", stem_width=16, num_classes=10, in_channels=1
    ),
}

SHORTCUTS = {"projection": projection, "subsample": subsample}


class ResNet(nn.Module):
    """``images (b, in_channels, h, w) → logits (b, num_classes)``."""

    def __init__(self, config: ResNetConfig):
        super().__init__()
        c = self.config = config
        if len(c.depths) != len(c.widths) or any(width % c.reduction for width in c.widths):
            raise FieldguideError(
                f"ResNet: depths={c.depths} and widths={c.widths} must be equally many, and widths multiples of "
                f"reduction={c.reduction}; override them together"
            )
        self.stem, stride = self._stem(c)
        self.feature_info = tuple(FeatureInfo(width, stride * 2**stage) for stage, width in enumerate(c.widths))
        inputs = (c.stem_width, *c.widths)
        self.stages = Stages(
            *(
                nn.Sequential(
                    self._block(c, inputs[stage], width, stride=2 if stage else 1),
                    *(self._block(c, width, width) for _ in range(depth - 1)),
                )
                for stage, (depth, width) in enumerate(zip(c.depths, c.widths, strict=True))
            )
        )
        self.pool = GlobalAverage()
        self.head = nn.Linear(c.widths[-1], c.num_classes)
        self.apply(he_init)

    @staticmethod
    def _stem(c: ResNetConfig) -> tuple[nn.Module, int]:
        if c.stem == "3x3":
            return ConvNormAct(c.in_channels, c.stem_width, 3), 1
        conv = ConvNormAct(c.in_channels, c.stem_width, 7, stride=2)
        return nn.Sequential(conv, nn.MaxPool2d(3, stride=2, padding=1)), 4

    @staticmethod
    def _block(c: ResNetConfig, in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
        shortcut = SHORTCUTS[c.shortcut]
        if c.reduction == 1:
            return BasicBlock(in_channels, out_channels, stride, groups=c.groups, shortcut=shortcut)
        inner = out_channels // c.reduction
        return Bottleneck(in_channels, out_channels, stride, inner_channels=inner, groups=c.groups, shortcut=shortcut)

    def _begin(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        smallest = self.feature_info[-1].stride
        return self.stem(require_images(x, in_channels=self.config.in_channels, smallest=smallest, model="ResNet"))

    def features(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The maps after each stage, finest first; ``feature_info`` has their channels and strides."""
        return self.stages.maps(self._begin(x))

    def classify(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits of the last map."""
        return self.head(self.pool(x))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.classify(self.stages(self._begin(x)))
