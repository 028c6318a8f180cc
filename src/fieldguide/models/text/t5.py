"""T5: an encoder and a decoder that know positions only as distances, trained to turn any text into any other.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", §2.1; v1.1 is
the authors' later release, with the gated layers of Shazeer 2020 and an output layer of its own. Against the 2017
Transformer: a root mean square norm before each sublayer, no biases, and a learned score for each head and bucket of
distances that all layers of a stack share. Beyond the paper, as in the authors' code: scores have no factor 1/√c, for
which queries begin smaller, and logits of the tied table have the factor 1/√d_model.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn
from torch.nn.functional import linear

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.biases import RelativeBuckets
from fieldguide.blocks.cache import Cache
from fieldguide.blocks.decoding import TextToText
from fieldguide.blocks.embeddings import require_tokens
from fieldguide.blocks.feedforward import FeedForward, GatedFeedForward
from fieldguide.blocks.masks import Causal, Full, Mask, Padding
from fieldguide.blocks.transformer import PreNormBlock, Stack
from fieldguide.shapes import Bool, Float, Int, Tensor

FEEDFORWARDS = {
    "relu": lambda d_model, d_ff, dropout: FeedForward(
        d_model, d_ff, activation=nn.ReLU(), dropout=dropout, bias=False
    ),
    "geglu": lambda d_model, d_ff, dropout: GatedFeedForward(
        d_model, d_ff, activation=nn.GELU("tanh"), dropout=dropout
    ),
}


@dataclass(frozen=True, kw_only=True)
class T5Config:
    vocab_size: int = 32128
    d_model: int = 512
    num_layers: int = 6
    """Of the encoder, and as many of the decoder."""
    num_heads: int = 8
    head_dim: int = 64
    d_ff: int = 2048
    feedforward: Literal["relu", "geglu"] = "relu"
    tied: bool = True
    """Whether the token table is the output layer too."""
    num_buckets: int = 32
    max_distance: int = 128
    """Distances from here on share the last bucket; texts may be longer."""
    dropout: float = 0.1
    pad: int = 0
    start: int = 0
    """The token before the first of a target."""
    eos: int = 1


V1_1 = {"feedforward": "geglu", "tied": False}

SIZES = {
    "t5_small": T5Config(),
    "t5_base": T5Config(d_model=768, num_layers=12, num_heads=12, d_ff=3072),
    "t5_large": T5Config(d_model=1024, num_layers=24, num_heads=16, d_ff=4096),
    "t5_3b": T5Config(d_model=1024, num_layers=24, num_heads=32, head_dim=128, d_ff=16384),
    "t5_11b": T5Config(d_model=1024, num_layers=24, num_heads=128, head_dim=128, d_ff=65536),
    "t5_v1_1_small": T5Config(num_layers=8, num_heads=6, d_ff=1024, **V1_1),
    "t5_v1_1_base": T5Config(d_model=768, num_layers=12, num_heads=12, **V1_1),
    "t5_v1_1_large": T5Config(d_model=1024, num_layers=24, num_heads=16, d_ff=2816, **V1_1),
    "t5_v1_1_xl": T5Config(d_model=2048, num_layers=24, num_heads=32, d_ff=5120, **V1_1),
    "t5_v1_1_xxl": T5Config(d_model=4096, num_layers=24, num_heads=64, d_ff=10240, **V1_1),
    "t5_mini": T5Config(vocab_size=260, d_model=64, num_layers=2, num_heads=4, head_dim=8, d_ff=128),
}


class T5(TextToText):
    """``source (b, n), target (b, m) → logits (b, m, vocab_size)`` of the token after each of the target's.

    ``target`` begins with the ``start`` token.
    """

    def __init__(self, config: T5Config):
        super().__init__()
        c = self.config = config
        self.tokens = nn.Embedding(c.vocab_size, c.d_model)
        self.dropout = nn.Dropout(c.dropout)
        self.encoder = Stack((self._layer(c) for _ in range(c.num_layers)), bias=self._distances(c, two_sided=True))
        decoder_layers = (self._layer(c, Causal(), self._attention(c)) for _ in range(c.num_layers))
        self.decoder = Stack(decoder_layers, bias=self._distances(c, two_sided=False))
        self.head = None if c.tied else nn.Linear(c.d_model, c.vocab_size, bias=False)
        self.apply(_init)

    @classmethod
    def _layer(cls, c: T5Config, mask: Mask = Full(), cross_attention: Attention | None = None) -> PreNormBlock:
        return PreNormBlock(
            cls._attention(c, mask),
            FEEDFORWARDS[c.feedforward](c.d_model, c.d_ff, c.dropout),
            cross_attention=cross_attention,
            norm=partial(nn.RMSNorm, eps=1e-6),
            branch=partial(nn.Dropout, c.dropout),
        )

    @staticmethod
    def _attention(c: T5Config, mask: Mask = Full()) -> Attention:
        return Attention(
            c.d_model, c.num_heads, head_dim=c.head_dim, mask=mask, scale=1.0, dropout=c.dropout, biased=()
        )

    @staticmethod
    def _distances(c: T5Config, *, two_sided: bool) -> RelativeBuckets:
        bias = RelativeBuckets(c.num_heads, num_buckets=c.num_buckets, max_distance=c.max_distance, two_sided=two_sided)
        nn.init.normal_(bias.table.weight, std=c.d_model**-0.5)
        return bias

    def encode(
        self, source: Int[Tensor, "b n"], source_keep: Bool[Tensor, "b n"] | None = None
    ) -> Float[Tensor, "b n d"]:
        """The source as the decoder's memory; ``source_keep`` marks its real tokens.

        Raises :class:`FieldguideError` for tokens outside the vocabulary and a source without a real one.
        """
        require_tokens(source, vocab_size=self.config.vocab_size, model="T5", keep=source_keep)
        return self.dropout(self.encoder(self.dropout(self.tokens(source)), mask=Padding.of(source_keep)))

    def decode(
        self,
        target: Int[Tensor, "b m"],
        memory: Float[Tensor, "b n d"],
        source_keep: Bool[Tensor, "b n"] | None = None,
        target_keep: Bool[Tensor, "b total"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "b m vocab"]:
        """Logits of the tokens after the target's; with a cache, ``target`` goes on from what that has seen."""
        require_tokens(target, vocab_size=self.config.vocab_size, model="T5", keep=target_keep)
        x = self.decoder(
            self.dropout(self.tokens(target)),
            memory,
            mask=Padding.of(target_keep),
            memory_mask=Padding.of(source_keep),
            cache=cache,
        )
        return self.output(self.dropout(x))

    def output(self, x: Float[Tensor, "b m d"]) -> Float[Tensor, "b m vocab"]:
        """The decoder's result as logits; the tied table has rows of length √d_model, which the factor takes out."""
        return self.head(x) if self.head else linear(x * self.config.d_model**-0.5, self.tokens.weight)

    def forward(
        self,
        source: Int[Tensor, "b n"],
        target: Int[Tensor, "b m"],
        source_keep: Bool[Tensor, "b n"] | None = None,
        target_keep: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b m vocab"]:
        return self.decode(target, self.encode(source, source_keep), source_keep, target_keep)


def _init(module: nn.Module) -> None:
    """Layers keep the size of what passes; the token table begins with deviation 1, as every ``nn.Embedding``."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
    if isinstance(module, Attention):  # after its own projections
        nn.init.normal_(module.query.weight, std=(module.d_model * module.head_dim) ** -0.5)
