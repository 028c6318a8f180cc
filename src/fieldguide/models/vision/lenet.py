"""LeNet-5: two convolutions with sub-sampling, then a small classifier.

LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition", §II.B and fig. 2.
Against the paper: every C3 map sees all S2 maps, ReLU for the scaled tanh, max pooling for the trainable averages,
and a linear layer for the radial-basis output – the form in which the network is taught today.
"""

from dataclasses import dataclass

from torch import nn

from fieldguide.blocks.conv import FeatureInfo, require_images
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class LeNetConfig:
    maps: tuple[int, int] = (6, 16)
    """Feature maps of C1 and C3."""
    units: tuple[int, int] = (120, 84)
    """Units of C5 and F6."""
    num_classes: int = 10
    in_channels: int = 1


SIZES = {
    "lenet5": LeNetConfig(),
    "lenet_mini": LeNetConfig(maps=(4, 12), units=(48, 32)),
}

SIDE = 32
"""Pixels: 32 → C1 28 → S2 14 → C3 10 → S4 5."""


class LeNet(nn.Module):
    """``images (b, in_channels, 32, 32) → logits (b, num_classes)``."""

    def __init__(self, config: LeNetConfig):
        super().__init__()
        c = self.config = config
        self.feature_info = (FeatureInfo(c.maps[0], 2), FeatureInfo(c.maps[1], 4))
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inputs, outputs, 5), nn.ReLU(), nn.MaxPool2d(2))
            for inputs, outputs in zip((c.in_channels, c.maps[0]), c.maps, strict=True)
        )
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(c.maps[1] * 5 * 5, c.units[0]), nn.ReLU(), nn.Linear(*c.units), nn.ReLU()
        )
        self.head = nn.Linear(c.units[1], c.num_classes)

    def features(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The maps S2 and S4, finest first; ``feature_info`` has their channels and strides."""
        require_images(x, in_channels=self.config.in_channels, smallest=SIDE, model="LeNet")
        return [x := stage(x) for stage in self.stages]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        if x.shape[-2:] != (SIDE, SIDE):
            raise FieldguideError(f"LeNet takes images of {SIDE}×{SIDE} pixels, got {tuple(x.shape)}; resize them")
        return self.head(self.hidden(self.features(x)[-1]))
