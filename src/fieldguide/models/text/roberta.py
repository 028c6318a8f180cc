"""RoBERTa: BERT trained longer, on more text, without next sentences and with a byte-level vocabulary.

Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach", §3 and §5. Against BERT: one segment vector
for every token, norms with ε = 1e-5, and positions that are counted over real tokens, behind the row of padding, as in
its code: ``[5, 6, pad, pad]`` stand at rows 2, 3, 1, 1. Against its code: ``keep`` decides what is real where given.
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


@dataclass(frozen=True, kw_only=True)
class RoBERTaConfig:
    vocab_size: int = 50265
    pad_id: int = 1
    max_len: int = 512
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_ff: int = 3072
    dropout: float = 0.1
    head: Literal["encode", "masked_lm", "classify"] = "encode"
    pooler: bool = True
    """With head="encode", whether ``head.pooler`` stands by; the other heads know for themselves."""
    num_classes: int = 2


SIZES = {
    "roberta_base": RoBERTaConfig(),
    "roberta_large": RoBERTaConfig(d_model=1024, num_layers=24, num_heads=16, d_ff=4096),
    "roberta_mini": RoBERTaConfig(
        vocab_size=260, max_len=128, d_model=64, num_layers=2, num_heads=4, d_ff=256, pooler=False
    ),
}

HEADS: dict[str, Callable[[RoBERTaConfig], nn.Module]] = {
    "encode": lambda c: Hidden(Pooler(c.d_model) if c.pooler else None),
    "masked_lm": lambda c: MaskedTokens(c.d_model, c.vocab_size),
    "classify": lambda c: TextClassifier(Pooler(c.d_model, dropout=c.dropout), c.num_classes, dropout=c.dropout),
}


class RoBERTa(nn.Module):
    """``tokens (b, n) → hidden states (b, n, d_model)``, or what ``config.head`` makes of them (``blocks/heads.py``).

    ``keep`` marks real tokens, all but ``pad_id`` unless given; ``segments`` may only be 0.
    """

    def __init__(self, config: RoBERTaConfig):
        super().__init__()
        c = self.config = config
        self.embeddings = Embeddings(
            nn.Embedding(c.vocab_size, c.d_model),
            Learned(c.max_len, c.d_model, offset=c.pad_id + 1),
            segments=nn.Embedding(1, c.d_model),
            norm=nn.LayerNorm(c.d_model),
            dropout=c.dropout,
        )
        self.encoder = Stack(self._layer(c) for _ in range(c.num_layers))
        self.head = HEADS[c.head](c)
        self.apply(small_normal)

    @staticmethod
    def _layer(c: RoBERTaConfig) -> PostNormBlock:
        return PostNormBlock(
            Attention(c.d_model, c.num_heads, dropout=c.dropout),
            FeedForward(c.d_model, c.d_ff),
            branch=partial(nn.Dropout, c.dropout),
        )

    def forward(
        self,
        tokens: Int[Tensor, "b n"],
        keep: Bool[Tensor, "b n"] | None = None,
        segments: Int[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b *out"]:
        require_tokens(tokens, vocab_size=self.config.vocab_size, model="RoBERTa", keep=keep)
        real = tokens != self.config.pad_id if keep is None else keep
        x = self.embeddings(tokens, positions=real.cumsum(1) * real - 1, segments=segments)
        x = self.encoder(x, mask=Padding.of(keep))
        return self.head(x, self.embeddings.tokens.weight)
