"""DistilBERT: BERT with half the layers, taught by the whole BERT.

Sanh et al. 2019, "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter", §3. Against BERT: no
segments, no pooler, a classifier with ReLU. Against its code: attention's output, too, is dropped out, as in BERT.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.embeddings import Embeddings, require_tokens
from fieldguide.blocks.feedforward import FeedForward
from fieldguide.blocks.heads import Hidden, MaskedTokens, Pooler, TextClassifier
from fieldguide.blocks.masks import Padding
from fieldguide.blocks.positions import Learned
from fieldguide.blocks.starting import small_normal
from fieldguide.blocks.transformer import PostNormBlock, Stack
from fieldguide.shapes import Bool, Float, Int, Tensor

NORM = partial(nn.LayerNorm, eps=1e-12)


@dataclass(frozen=True, kw_only=True)
class DistilBERTConfig:
    vocab_size: int = 30522
    max_len: int = 512
    d_model: int = 768
    num_layers: int = 6
    num_heads: int = 12
    d_ff: int = 3072
    dropout: float = 0.1
    head: Literal["encode", "masked_lm", "classify"] = "encode"
    num_classes: int = 2


SIZES = {
    "distilbert_base": DistilBERTConfig(),
    "distilbert_mini": DistilBERTConfig(vocab_size=260, max_len=128, d_model=64, num_layers=2, num_heads=4, d_ff=256),
}

HEADS: dict[str, Callable[[DistilBERTConfig], nn.Module]] = {
    "encode": lambda c: Hidden(),
    "masked_lm": lambda c: MaskedTokens(c.d_model, c.vocab_size, norm=NORM),
    "classify": lambda c: TextClassifier(Pooler(c.d_model, activation=nn.ReLU()), c.num_classes, dropout=2 * c.dropout),
}


class DistilBERT(nn.Module):
    """``tokens (b, n) → hidden states (b, n, d_model)``, or what ``config.head`` makes of them (``blocks/heads.py``).

    ``keep`` marks real tokens; ``segments`` are refused, there is no table for them.
    """

    def __init__(self, config: DistilBERTConfig):
        super().__init__()
        c = self.config = config
        self.embeddings = Embeddings(
            nn.Embedding(c.vocab_size, c.d_model),
            Learned(c.max_len, c.d_model),
            norm=NORM(c.d_model),
            dropout=c.dropout,
        )
        self.encoder = Stack(self._layer(c) for _ in range(c.num_layers))
        self.head = HEADS[c.head](c)
        self.apply(small_normal)

    @staticmethod
    def _layer(c: DistilBERTConfig) -> PostNormBlock:
        return PostNormBlock(
            Attention(c.d_model, c.num_heads, dropout=c.dropout),
            FeedForward(c.d_model, c.d_ff),
            norm=NORM,
            branch=partial(nn.Dropout, c.dropout),
        )

    def forward(
        self,
        tokens: Int[Tensor, "b n"],
        keep: Bool[Tensor, "b n"] | None = None,
        segments: Int[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b *out"]:
        require_tokens(tokens, vocab_size=self.config.vocab_size, model="DistilBERT", keep=keep)
        x = self.embeddings(tokens, keep=keep, segments=segments)
        x = self.encoder(x, mask=Padding.of(keep))
        return self.head(x, self.embeddings.tokens.weight)
