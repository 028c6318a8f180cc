"""Performer: a Transformer encoder whose attention is estimated from random features, in time linear in the length.

Choromanski et al. 2021, "Rethinking Attention with Performers", §2. The paper fixes no size and no public weights
exist: performer_base is BERT-base (Devlin et al. 2019) with 256 features and places for 4,096 tokens. Against the
paper's code: no small number is added to the features, and new ones are drawn only by ``redraw()``.
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
class PerformerConfig:
    vocab_size: int = 30522
    max_len: int = 4096
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_ff: int = 3072
    features: int = 256
    """Random features of each layer, m; the error falls with 1/√m."""
    dropout: float = 0.1
    head: Literal["encode", "masked_lm", "classify"] = "encode"
    num_classes: int = 2


SIZES = {
    "performer_base": PerformerConfig(),
    "performer_mini": PerformerConfig(
        vocab_size=256, max_len=128, d_model=64, num_layers=2, num_heads=4, d_ff=256, features=64
    ),
}

HEADS: dict[str, Callable[[PerformerConfig], nn.Module]] = {
    "encode": lambda c: Hidden(),
    "masked_lm": lambda c: MaskedTokens(c.d_model, c.vocab_size),
    "classify": lambda c: TextClassifier(Pooler(c.d_model), c.num_classes, dropout=c.dropout),
}


class Performer(nn.Module):
    """``tokens (b, n) → hidden states (b, n, d_model)``, or what ``config.head`` makes of them (``blocks/heads.py``).

    ``keep`` marks real tokens; there are no segments.
    """

    def __init__(self, config: PerformerConfig):
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
    def _layer(c: PerformerConfig) -> PostNormBlock:
        return PostNormBlock(
            Attention(c.d_model, c.num_heads, core=cores.Performer(c.features)),
            FeedForward(c.d_model, c.d_ff),
            branch=partial(nn.Dropout, c.dropout),
        )

    def redraw(self) -> None:
        """New random features in every layer, from torch's generator (§4.2: now and then in training)."""
        for module in self.modules():
            if isinstance(module, cores.Performer):
                module.redraw()

    def forward(
        self,
        tokens: Int[Tensor, "b n"],
        keep: Bool[Tensor, "b n"] | None = None,
        segments: Int[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b *out"]:
        require_tokens(tokens, vocab_size=self.config.vocab_size, model="Performer", keep=keep)
        x = self.encoder(self.embeddings(tokens, keep=keep, segments=segments), mask=Padding.of(keep))
        return self.head(x, self.embeddings.tokens.weight)
