"""LeNet-5: two convolutions with sub-sampling, then a small classifier.

LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document recognition", §II.B and fig. 2.
Form "1998" is the paper's: C3 of table I, trained averages, a scaled tanh and distances to drawn digits. Form "modern"
is how the network is taught today: every C3 map sees all S2 maps, ReLU, max pooling and a linear output. Against the
paper both start from PyTorch's initial weights, and the loss (eq. 9) has no class of rubbish.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from torch import nn

from fieldguide.blocks.conv import FeatureInfo, ScaledTanh, Stages, TableConv2d, require_images
from fieldguide.blocks.pooling import SubSampling
from fieldguide.blocks.radial import RadialBasis
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class LeNetConfig:
    form: Literal["modern", "1998"] = "modern"
    maps: tuple[int, int] = (6, 16)
    """Feature maps of C1 and C3."""
    units: tuple[int, int] = (120, 84)
    """Units of C5 and F6."""
    num_classes: int = 10
    in_channels: int = 1


SIZES = {
    "lenet5": LeNetConfig(),
    "lenet5_1998": LeNetConfig(form="1998"),
    "lenet_mini": LeNetConfig(maps=(4, 12), units=(48, 32)),
}

SIDE = 32
"""Pixels: 32 → C1 28 → S2 14 → C3 10 → S4 5."""

TABLE_I = (
    *("012", "123", "234", "345", "450", "501"),
    *("0123", "1234", "2345", "3450", "4501", "5012", "0134", "1245", "0235"),
    *("012345",),
)
"""The S2 maps that each C3 map sees: six see three neighbours, nine see four, one sees all (in a ring, 0 next to 5)."""


def table_convolution(in_channels: int, out_channels: int) -> nn.Module:
    """C3 of 1998; :class:`FieldguideError` for other numbers of maps than table I has."""
    if (in_channels, out_channels) != (6, 16):
        raise FieldguideError(
            f"LeNet: table I connects 6 with 16 maps, got maps=({in_channels}, {out_channels}); use form='modern'"
        )
    return TableConv2d(in_channels, [[int(i) for i in maps] for maps in TABLE_I], kernel_size=5)


class Form(NamedTuple):
    """What the two forms build differently."""

    c3: Callable[[int, int], nn.Module]
    squash: Callable[[], nn.Module]
    subsample: Callable[[int], nn.Module]
    head: Callable[[int, int], nn.Module]


FORMS = {
    "modern": Form(
        c3=partial(nn.Conv2d, kernel_size=5),
        squash=partial(nn.ReLU, inplace=True),
        subsample=lambda maps: nn.MaxPool2d(2),
        head=nn.Linear,
    ),
    "1998": Form(
        c3=table_convolution,
        squash=ScaledTanh,
        subsample=lambda maps: nn.Sequential(SubSampling(maps), ScaledTanh()),
        head=RadialBasis,
    ),
}


class LeNet(nn.Module):
    """``images (b, in_channels, 32, 32) → logits (b, num_classes)``."""

    def __init__(self, config: LeNetConfig):
        super().__init__()
        c = self.config = config
        form = FORMS[c.form]
        self.feature_info = (FeatureInfo(c.maps[0], 2), FeatureInfo(c.maps[1], 4))
        self.stem = nn.Identity()
        self.stages = Stages(
            nn.Sequential(nn.Conv2d(c.in_channels, c.maps[0], 5), form.squash(), form.subsample(c.maps[0])),
            nn.Sequential(form.c3(*c.maps), form.squash(), form.subsample(c.maps[1])),
        )
        self.hidden = nn.Sequential(
            nn.Flatten(),
            nn.Linear(c.maps[1] * 5 * 5, c.units[0]),
            form.squash(),
            nn.Linear(*c.units),
            form.squash(),
        )
        self.head = form.head(c.units[1], c.num_classes)

    def _begin(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        return self.stem(require_images(x, in_channels=self.config.in_channels, smallest=SIDE, model="LeNet"))

    def features(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The maps S2 and S4, finest first; ``feature_info`` has their channels and strides."""
        return self.stages.maps(self._begin(x))

    def classify(self, x: Float[Tensor, "b c 5 5"]) -> Float[Tensor, "b k"]:
        """Logits of the last map."""
        return self.head(self.hidden(x))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        if x.shape[-2:] != (SIDE, SIDE):
            raise FieldguideError(f"LeNet takes images of {SIDE}×{SIDE} pixels, got {tuple(x.shape)}; resize them")
        return self.classify(self.stages(self._begin(x)))
