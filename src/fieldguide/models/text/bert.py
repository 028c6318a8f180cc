"""BERT: a Transformer encoder that reads every token with all others in view, trained to restore those it cannot see.

Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", §3. Against the
2017 encoder: learned positions, a vector for each of two texts, norm and dropout on the embeddings, exact GELU, and
norms with ε = 1e-12. Against the paper's code: padding on the left moves no position.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.embeddings import Embeddings, require_tokens
from fieldguide.blocks.feedforward import FeedForward
from fieldguide.blocks.heads import Hidden, MaskedTokens, Pooler, Pretraining, TextClassifier
from fieldguide.blocks.masks import Padding
from fieldguide.blocks.positions import Learned
from fieldguide.blocks.starting import small_normal
from fieldguide.blocks.transformer import PostNormBlock, Stack
from fieldguide.shapes import Bool, Float, Int, Tensor

NORM = partial(nn.LayerNorm, eps=1e-12)


@dataclass(frozen=True, kw_only=True)
class BERTConfig:
    vocab_size: int = 30522
    max_len: int = 512
    num_segments: int = 2
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_ff: int = 3072
    dropout: float = 0.1
    head: Literal["encode", "masked_lm", "pretrain", "classify"] = "encode"
    pooler: bool = True
    """With head="encode", whether ``head.pooler`` stands by; the other heads know for themselves."""
    num_classes: int = 2


SIZES = {
    "bert_base": BERTConfig(),
    "bert_large": BERTConfig(d_model=1024, num_layers=24, num_heads=16, d_ff=4096),
    "bert_mini": BERTConfig(vocab_size=260, max_len=128, d_model=64, num_layers=2, num_heads=4, d_ff=256, pooler=False),
}

HEADS: dict[str, Callable[[BERTConfig], nn.Module]] = {
    "encode": lambda c: Hidden(Pooler(c.d_model) if c.pooler else None),
    "masked_lm": lambda c: MaskedTokens(c.d_model, c.vocab_size, norm=NORM),
    "pretrain": lambda c: Pretraining(MaskedTokens(c.d_model, c.vocab_size, norm=NORM), Pooler(c.d_model)),
    "classify": lambda c: TextClassifier(Pooler(c.d_model), c.num_classes, dropout=c.dropout),
}


class BERT(nn.Module):
    """``tokens (b, n) → hidden states (b, n, d_model)``, or what ``config.head`` makes of them (``blocks/heads.py``).

    ``keep`` marks real tokens, ``segments`` says which text a token is of, 0 or 1. With head="encode" the vector of a
    whole text is ``model.head.pooler(hidden)``.
    """

    def __init__(self, config: BERTConfig):
        super().__init__()
        c = self.config = config
        self.embeddings = Embeddings(
            nn.Embedding(c.vocab_size, c.d_model),
            Learned(c.max_len, c.d_model),
            segments=nn.Embedding(c.num_segments, c.d_model),
            norm=NORM(c.d_model),
            dropout=c.dropout,
        )
        self.encoder = Stack(self._layer(c) for _ in range(c.num_layers))
        self.head = HEADS[c.head](c)
        self.apply(small_normal)

    @staticmethod
    def _layer(c: BERTConfig) -> PostNormBlock:
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
    ) -> Float[Tensor, "b *out"] | tuple[Float[Tensor, "b n v"], Float[Tensor, "b 2"]]:
        require_tokens(tokens, vocab_size=self.config.vocab_size, model="BERT", keep=keep)
        x = self.embeddings(tokens, keep=keep, segments=segments)
        x = self.encoder(x, mask=Padding.of(keep))
        return self.head(x, self.embeddings.tokens.weight)
