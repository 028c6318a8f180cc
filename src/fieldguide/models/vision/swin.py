"""Swin: a Transformer over windows of an image, whose maps grow coarser and wider from stage to stage as a CNN's do.

Liu et al. 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", §3 and table 7. Heads are
32 wide and the feed-forward layers four times as wide as their stage. Against the paper: maps that windows do not
divide are filled up as in torchvision, so images may have any size.
"""

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from fieldguide.blocks.conv import ConvNormAct, FeatureInfo, Stages, require_images
from fieldguide.blocks.feedforward import FeedForward
from fieldguide.blocks.norms import ChannelFirst
from fieldguide.blocks.pooling import GlobalAverage
from fieldguide.blocks.residual import PreNorm, StochasticDepth
from fieldguide.blocks.windows import ChannelsLast, PatchMerging, WindowAttention
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    patch_size: int = 4
    embed_dim: int = 96
    """Width of the first stage, C; each stage doubles it."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    head_dim: int = 32
    window_size: int = 7
    stochastic_depth: float = 0.2
    """Rate of the last block; the first has none and those between lie on a line."""
    num_classes: int = 1000
    in_channels: int = 3


SIZES = {
    "swin_t": SwinConfig(),
    "swin_s": SwinConfig(depths=(2, 2, 18, 2), stochastic_depth=0.3),
    "swin_b": SwinConfig(embed_dim=128, depths=(2, 2, 18, 2), stochastic_depth=0.5),
    "swin_l": SwinConfig(embed_dim=192, depths=(2, 2, 18, 2), stochastic_depth=0.5),
    "swin_mini": SwinConfig(
        patch_size=2,
        embed_dim=32,
        depths=(2, 2),
        head_dim=16,
        window_size=4,
        stochastic_depth=0.0,
        num_classes=10,
        in_channels=1,
    ),
}


class Swin(nn.Module):
    """``images (b, in_channels, h, w) → logits (b, num_classes)``."""

    def __init__(self, config: SwinConfig):
        super().__init__()
        c = self.config = config
        if c.embed_dim % c.head_dim:
            raise FieldguideError(
                f"Swin: embed_dim={c.embed_dim} does not divide into heads of head_dim={c.head_dim}; make it a multiple"
            )
        widths = [c.embed_dim * 2**stage for stage in range(len(c.depths))]
        blocks = sum(c.depths)
        drops = (c.stochastic_depth * block / max(1, blocks - 1) for block in range(blocks))
        self.stem = ConvNormAct(
            c.in_channels, c.embed_dim, c.patch_size, c.patch_size, padding=0, bias=True, norm=_norm, activation=None
        )
        self.feature_info = tuple(FeatureInfo(width, c.patch_size * 2**stage) for stage, width in enumerate(widths))
        self.stages = Stages(
            *(
                ChannelsLast(
                    OrderedDict(
                        merge=PatchMerging(width // 2) if stage else nn.Identity(),
                        blocks=nn.Sequential(*(self._block(c, width, i, next(drops)) for i in range(depth))),
                    )
                )
                for stage, (depth, width) in enumerate(zip(c.depths, widths, strict=True))
            )
        )
        self.norm = _norm(widths[-1])
        self.pool = GlobalAverage()
        self.head = nn.Linear(widths[-1], c.num_classes)
        self.apply(_init)

    @staticmethod
    def _block(c: SwinConfig, width: int, index: int, drop: float) -> nn.Module:
        """Attention and feed-forward; the windows of every second block are shifted by half of their size."""
        parts = {
            "attention": WindowAttention(width, width // c.head_dim, c.window_size, index % 2 * (c.window_size // 2)),
            "feedforward": FeedForward(width, 4 * width),
        }
        return nn.Sequential(
            OrderedDict(
                (name, PreNorm(part, nn.LayerNorm(width), StochasticDepth(drop))) for name, part in parts.items()
            )
        )

    def _begin(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        smallest = self.feature_info[-1].stride
        return self.stem(require_images(x, in_channels=self.config.in_channels, smallest=smallest, model="Swin"))

    def features(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The maps after each stage, finest first; ``feature_info`` has their channels and strides."""
        return self.stages.maps(self._begin(x))

    def classify(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits of the last map."""
        return self.head(self.pool(self.norm(x)))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.classify(self.stages(self._begin(x)))


def _norm(width: int) -> nn.Module:
    return ChannelFirst(nn.LayerNorm(width))


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
