"""Linformer: a Transformer encoder whose keys and values are projected from n places to k slots.

Wang et al. 2020, "Linformer: Self-Attention with Linear Complexity", §4 and table 2. linformer_base is RoBERTa-base
(Liu et al. 2019) with n = 512, k = 256 and one projection for keys and values in each layer ("256, shared kv"), which
all heads share. Against the paper: nothing is shared between layers, and padding is zeroed before it is projected.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from fieldguide.blocks import cores
from fieldguide.blocks.attention import Attention
from fieldguide.blocks.embeddings import Embeddings, require_tokens
from fieldguide.blocks.feedforward import FeedForward
from fieldguide.blocks.heads import Hidden, MaskedTokens, Pooler, TextClassifier
from fieldguide.blocks.masks import Padding
from fieldguide.blocks.positions import Learned
from fieldguide.blocks.starting import small_normal
from fieldguide.blocks.transformer import PostNormBlock, Stack
from fieldguide.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True, kw_only=True)
class LinformerConfig:
    vocab_size: int = 50265
    max_len: int = 512
    """Longest text, n: a projection has a row for each place."""
    slots: int = 256
    """What the places are projected to, k."""
    projections: Literal["shared", "separate"] = "shared"
    """Whether keys and values have one projection, or E and F."""
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_ff: int = 3072
    dropout: float = 0.1
    head: Literal["encode", "masked_lm", "classify"] = "encode"
    num_classes: int = 2


SIZES = {
    "linformer_base": LinformerConfig(),
    "linformer_mini": LinformerConfig(
        vocab_size=256, max_len=128, slots=32, d_model=64, num_layers=2, num_heads=4, d_ff=256
    ),
}

CORES: dict[str, Callable[[LinformerConfig], cores.Linformer]] = {
    "shared": lambda c: cores.Linformer(cores.Projection(c.max_len, c.slots)),
    "separate": lambda c: cores.Linformer(*(cores.Projection(c.max_len, c.slots) for _ in range(2))),
}
HEADS: dict[str, Callable[[LinformerConfig], nn.Module]] = {
    "encode": lambda c: Hidden(),
    "masked_lm": lambda c: MaskedTokens(c.d_model, c.vocab_size),
    "classify": lambda c: TextClassifier(Pooler(c.d_model), c.num_classes, dropout=c.dropout),
}


class Linformer(nn.Module):
    """``tokens (b, n) → hidden states (b, n, d_model)``, or what ``config.head`` makes of them (``blocks/heads.py``).

    ``keep`` marks real tokens, with padding on the right as in the paper: a slot takes from each place a share of its
    own. There are no segments.
    """

    def __init__(self, config: LinformerConfig):
        super().__init__()
        c = self.config = config
        self.embeddings = Embeddings(
            nn.Embedding(c.vocab_size, c.d_model),
            Learned(c.max_len, c.d_model),
            norm=nn.LayerNorm(c.d_model),
            dropout=c.dropout,
        )
        self.encoder = Stack(self._layer(c) for _ in range(c.num_layers))
        self.head = HEADS[c.head](c)
        self.apply(small_normal)

    @staticmethod
    def _layer(c: LinformerConfig) -> PostNormBlock:
        return PostNormBlock(
            Attention(c.d_model, c.num_heads, core=CORES[c.projections](c), dropout=c.dropout),
            FeedForward(c.d_model, c.d_ff),
            branch=partial(nn.Dropout, c.dropout),
        )

    def forward(
        self,
        tokens: Int[Tensor, "b n"],
        keep: Bool[Tensor, "b n"] | None = None,
        segments: Int[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b *out"]:
        require_tokens(tokens, vocab_size=self.config.vocab_size, model="Linformer", keep=keep)
        x = self.encoder(self.embeddings(tokens, keep=keep, segments=segments), mask=Padding.of(keep))
        return self.head(x, self.embeddings.tokens.weight)
