"""AlexNet: five convolutions and three fully connected layers, the network that began the era.

Krizhevsky 2014, "One weird trick for parallelizing convolutional neural networks", the network that libraries publish.
Against Krizhevsky, Sutskever & Hinton 2012: fewer filters, no local response normalisation, and no convolutions in two
groups for two GPUs; ReLU, overlapping max pooling and dropout are as they were.
"""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from torch import nn

from fieldguide.blocks.conv import ConvNormAct, FeatureInfo, Stages, he_init, relu, require_images
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class AlexNetConfig:
    widths: tuple[int, ...] = (64, 192, 384, 256, 256)
    """Channels of the five convolutions."""
    kernel_size: int = 11
    """Of the first convolution; the second has 5, the others 3."""
    stride: int = 4
    """Of the first convolution."""
    grid: int = 6
    """Side of the map that the classifier reads; maps of another size are averaged into it."""
    units: tuple[int, ...] = (4096, 4096)
    """Units of the hidden fully connected layers."""
    dropout: float = 0.5
    num_classes: int = 1000
    in_channels: int = 3


SIZES = {
    "alexnet": AlexNetConfig(),
    "alexnet_mini": AlexNetConfig(
        widths=(16, 32, 48, 48, 48), kernel_size=5, stride=1, grid=1, units=(128, 128), num_classes=10, in_channels=1
    ),
}

PADDING = 2
"""Of the first convolution, whatever its kernel."""


class AlexNet(nn.Module):
    """``images (b, in_channels, h, w) → logits (b, num_classes)``."""

    def __init__(self, config: AlexNetConfig):
        super().__init__()
        c = self.config = config
        if len(c.widths) != 5:
            raise FieldguideError(f"AlexNet has five convolutions, got widths={c.widths}; give five widths")
        first, second, third, fourth, fifth = c.widths
        conv = partial(ConvNormAct, norm=None)
        self.stem = nn.Identity()
        self.stages = Stages(
            nn.Sequential(
                conv(c.in_channels, first, c.kernel_size, c.stride, padding=PADDING),
                nn.MaxPool2d(3, stride=2),
            ),
            nn.Sequential(
                conv(first, second, 5),
                nn.MaxPool2d(3, stride=2),
            ),
            nn.Sequential(
                conv(second, third, 3),
                conv(third, fourth, 3),
                conv(fourth, fifth, 3),
                nn.MaxPool2d(3, stride=2),
            ),
        )
        self.feature_info = tuple(
            FeatureInfo(width, c.stride * 2 ** (stage + 1)) for stage, width in enumerate((first, second, fifth))
        )
        # Three poolings make 15 → 7 → 3 → 1, so the first convolution must give 15 pixels.
        self.smallest = 14 * c.stride + c.kernel_size - 2 * PADDING
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(c.grid), nn.Flatten())
        sizes = (fifth * c.grid**2, *c.units)
        self.hidden = nn.Sequential(
            *(
                layer
                for inputs, outputs in pairwise(sizes)
                for layer in (nn.Dropout(c.dropout), nn.Linear(inputs, outputs), relu())
            )
        )
        self.head = nn.Linear(sizes[-1], c.num_classes)
        self.apply(he_init)

    def _begin(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        return self.stem(
            require_images(x, in_channels=self.config.in_channels, smallest=self.smallest, model="AlexNet")
        )

    def features(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The maps after each max pooling, finest first; ``feature_info`` has their channels and strides."""
        return self.stages.maps(self._begin(x))

    def classify(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits of the last map."""
        return self.head(self.hidden(self.pool(x)))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.classify(self.stages(self._begin(x)))
