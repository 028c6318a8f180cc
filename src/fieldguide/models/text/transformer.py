"""The Transformer: an encoder reads the source, a causal decoder attends to it and predicts the target's next token.

Vaswani et al. 2017, "Attention Is All You Need", §3, fig. 1 and table 3. Against the paper: all projections have a
bias, as in the authors' code; ``activation`` and ``output_bias`` are for later networks of this kind, such as the
translators of Marian.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.cache import Cache
from fieldguide.blocks.decoding import TextToText
from fieldguide.blocks.embeddings import Embeddings, ScaledEmbedding, require_tokens, tied_logits
from fieldguide.blocks.feedforward import FeedForward
from fieldguide.blocks.masks import Causal, Padding
from fieldguide.blocks.positions import Sinusoidal
from fieldguide.blocks.transformer import PostNormBlock, Stack
from fieldguide.shapes import Bool, Float, Int, Tensor

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU}


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    vocab_size: int = 37000
    """Shared by source and target."""
    d_model: int = 512
    num_layers: int = 6
    """Of the encoder, and as many of the decoder."""
    num_heads: int = 8
    d_ff: int = 2048
    activation: Literal["relu", "silu"] = "relu"
    output_bias: bool = False
    dropout: float = 0.1
    pad: int = 0
    start: int = 0
    """The token before the first of a target: the padding, which in Marian is the last of the vocabulary."""
    eos: int = 1


SIZES = {
    "transformer_base": TransformerConfig(),
    "transformer_big": TransformerConfig(d_model=1024, num_heads=16, d_ff=4096, dropout=0.3),
    "transformer_mini": TransformerConfig(vocab_size=260, d_model=48, num_layers=2, num_heads=4, d_ff=192),
}


class Transformer(TextToText):
    """``source (b, n), target (b, m) → logits (b, m, vocab_size)`` of the token after each of the target's.

    ``target`` begins with the ``start`` token. One table embeds the source, embeds the target and, transposed, is the
    output layer (§3.4); positions are sines and cosines, so texts may have any length.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        c = self.config = config
        tokens = ScaledEmbedding(c.vocab_size, c.d_model)
        self.embeddings = Embeddings(tokens, Sinusoidal(c.d_model), dropout=c.dropout)
        self.encoder = Stack(self._layer(c) for _ in range(c.num_layers))
        self.decoder = Stack(self._decoder_layer(c) for _ in range(c.num_layers))
        self.output_bias = nn.Parameter(torch.zeros(c.vocab_size)) if c.output_bias else None
        self.apply(_init)

    @staticmethod
    def _layer(c: TransformerConfig) -> PostNormBlock:
        return PostNormBlock(
            Attention(c.d_model, c.num_heads),
            FeedForward(c.d_model, c.d_ff, activation=ACTIVATIONS[c.activation]()),
            branch=partial(nn.Dropout, c.dropout),
        )

    @staticmethod
    def _decoder_layer(c: TransformerConfig) -> PostNormBlock:
        return PostNormBlock(
            Attention(c.d_model, c.num_heads, mask=Causal()),
            FeedForward(c.d_model, c.d_ff, activation=ACTIVATIONS[c.activation]()),
            cross_attention=Attention(c.d_model, c.num_heads),
            branch=partial(nn.Dropout, c.dropout),
        )

    def encode(
        self, source: Int[Tensor, "b n"], source_keep: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """The source as the decoder's memory; ``source_keep`` marks its real tokens.

        Raises :class:`FieldguideError` for tokens outside the vocabulary and a source without a real one.
        """
        require_tokens(source, vocab_size=self.config.vocab_size, model="Transformer", keep=source_keep)
        return self.encoder(self.embeddings(source, keep=source_keep), mask=Padding.of(source_keep))

    def decode(
        self,
        target: Int[Tensor, "b m"],
        memory: Float[Tensor, "b n d"],
        source_keep: Bool[Tensor, "b n"] | None = None,
        target_keep: Bool[Tensor, "b total"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "b m vocab"]:
        """Logits of the tokens after the target's; with a cache, ``target`` goes on from what that has seen."""
        require_tokens(target, vocab_size=self.config.vocab_size, model="Transformer", keep=target_keep)
        x = self.decoder(
            self.embeddings(target, keep=target_keep, cache=cache),
            memory,
            mask=Padding.of(target_keep),
            memory_mask=Padding.of(source_keep),
            cache=cache,
        )
        return tied_logits(x, self.embeddings.tokens.weight, self.output_bias)

    def forward(
        self,
        source: Int[Tensor, "b n"],
        target: Int[Tensor, "b m"],
        source_keep: Bool[Tensor, "b n"] | None = None,
        target_keep: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b m vocab"]:
        return self.decode(target, self.encode(source, source_keep), source_keep, target_keep)


def _init(module: nn.Module) -> None:
    """As the authors' code: uniform, with the variance 2 / (inputs + outputs)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
