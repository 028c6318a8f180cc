"""VGG: nothing but 3×3 convolutions, in stages that each halve the image and double the channels.

Simonyan & Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition", table 1, columns A, B,
D and E. Against the paper: ``_bn`` sizes normalise after every convolution (Ioffe & Szegedy 2015), the weights start as
He et al. 2015 have them, and images of other sizes than 224 are averaged into the grid that the classifier reads.
"""

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Literal

from torch import nn

from fieldguide.blocks.conv import ConvNormAct, FeatureInfo, Stages, he_init, relu, require_images
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class VGGConfig:
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    """Convolutions in each stage; every stage ends with 2×2 max pooling."""
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    """Channels of each stage."""
    norm: Literal["none", "batch"] = "none"
    grid: int = 7
    """Side of the map that the classifier reads; maps of another size are averaged into it."""
    units: tuple[int, ...] = (4096, 4096)
    """Units of the hidden fully connected layers."""
    dropout: float = 0.5
    num_classes: int = 1000
    in_channels: int = 3


PLAIN = {
    "vgg11": VGGConfig(depths=(1, 1, 2, 2, 2)),
    "vgg13": VGGConfig(depths=(2, 2, 2, 2, 2)),
    "vgg16": VGGConfig(),
    "vgg19": VGGConfig(depths=(2, 2, 4, 4, 4)),
}
SIZES = {
    **PLAIN,
    **{f"{name}_bn": replace(config, norm="batch") for name, config in PLAIN.items()},
    "vgg_mini": VGGConfig(depths=(2, 2), widths=(24, 48), grid=2, units=(128, 128), num_classes=10, in_channels=1),
}

NORMS = {"none": None, "batch": nn.BatchNorm2d}


class VGG(nn.Module):
    """``images (b, in_channels, h, w) → logits (b, num_classes)``."""

    def __init__(self, config: VGGConfig):
        super().__init__()
        c = self.config = config
        if len(c.depths) != len(c.widths):
            raise FieldguideError(f"VGG: depths={c.depths} and widths={c.widths} must be equally many")
        inputs = (c.in_channels, *c.widths)
        # The published files have a bias before every norm, which takes it away again.
        conv = partial(ConvNormAct, norm=NORMS[c.norm], bias=True)
        self.stem = nn.Identity()
        self.stages = Stages(
            *(
                nn.Sequential(
                    conv(inputs[stage], width),
                    *(conv(width, width) for _ in range(depth - 1)),
                    nn.MaxPool2d(2),
                )
                for stage, (depth, width) in enumerate(zip(c.depths, c.widths, strict=True))
            )
        )
        self.feature_info = tuple(FeatureInfo(width, 2 ** (stage + 1)) for stage, width in enumerate(c.widths))
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(c.grid), nn.Flatten())
        sizes = (c.widths[-1] * c.grid**2, *c.units)
        self.hidden = nn.Sequential(
            *(
                layer
                for before, after in pairwise(sizes)
                for layer in (nn.Linear(before, after), relu(), nn.Dropout(c.dropout))
            )
        )
        self.head = nn.Linear(sizes[-1], c.num_classes)
        self.apply(he_init)

    def _begin(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        smallest = self.feature_info[-1].stride
        return self.stem(require_images(x, in_channels=self.config.in_channels, smallest=smallest, model="VGG"))

    def features(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The maps after each max pooling, finest first; ``feature_info`` has their channels and strides."""
        return self.stages.maps(self._begin(x))

    def classify(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits of the last map."""
        return self.head(self.hidden(self.pool(x)))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.classify(self.stages(self._begin(x)))
