"""ViT: an image as a sequence of patches for a plain Transformer encoder.

Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", §3.1, eq. 1–4 and table 1; Ti and S are from Touvron et al.
2021 (DeiT). Against the paper: weights start from a normal distribution of deviation 0.02, the head too (zero there).
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.conv import FeatureInfo
from fieldguide.blocks.feedforward import FeedForward
from fieldguide.blocks.patches import PatchEmbedding
from fieldguide.blocks.positions import Learned, positions_of
from fieldguide.blocks.transformer import PreNormBlock, Stack
from fieldguide.shapes import Float, Tensor


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    image_size: int | tuple[int, int] = 224
    """A side, or height and width."""
    patch_size: int = 16
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_ff: int = 3072
    dropout: float = 0.0
    num_classes: int = 1000
    in_channels: int = 3


SIZES = {
    "vit_ti_16": ViTConfig(d_model=192, num_heads=3, d_ff=768),
    "vit_s_16": ViTConfig(d_model=384, num_heads=6, d_ff=1536),
    "vit_b_16": ViTConfig(),
    "vit_b_32": ViTConfig(patch_size=32),
    "vit_l_16": ViTConfig(d_model=1024, num_layers=24, num_heads=16, d_ff=4096),
    "vit_h_14": ViTConfig(patch_size=14, d_model=1280, num_layers=32, num_heads=16, d_ff=5120),
    "vit_mini": ViTConfig(
        image_size=32, patch_size=4, d_model=64, num_layers=4, num_heads=4, d_ff=128, num_classes=10, in_channels=1
    ),
}


class ViT(nn.Module):
    """``images (b, in_channels, height, width) → logits (b, num_classes)``."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        c = self.config = config
        self.patches = PatchEmbedding(c.image_size, c.patch_size, c.in_channels, c.d_model)
        self.class_token = nn.Parameter(torch.zeros(c.d_model))
        self.positions = Learned(1 + self.patches.num_patches, c.d_model)
        self.dropout = nn.Dropout(c.dropout)
        self.encoder = Stack(self._layer(c) for _ in range(c.num_layers))
        self.head = nn.Linear(c.d_model, c.num_classes)
        self.feature_info = (FeatureInfo(c.d_model, c.patch_size),)
        self.apply(_init)

    @staticmethod
    def _layer(c: ViTConfig) -> PreNormBlock:
        return PreNormBlock(
            Attention(c.d_model, c.num_heads),
            FeedForward(c.d_model, c.d_ff, dropout=c.dropout),
            norm=partial(nn.LayerNorm, eps=1e-6),
            branch=partial(nn.Dropout, c.dropout),
        )

    def encode(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Normalised tokens: the class token, then the patches row by row."""
        patches = self.patches(x)
        x = torch.cat((self.class_token.expand(x.shape[0], 1, -1), patches), dim=1)
        return self.encoder(self.dropout(x + self.positions(positions_of(x))))

    def features(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """One map, the last layer's patches: all layers of a ViT have the same stride."""
        return [self.encode(x)[:, 1:].transpose(1, 2).unflatten(2, self.patches.grid)]

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.head(self.encode(x)[:, 0])


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
