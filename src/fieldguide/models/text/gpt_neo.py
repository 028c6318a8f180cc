"""GPT-Neo: an open GPT-3 whose layers see all earlier tokens and the last 256 in turn.

Black, Gao, Wang, Leahy & Biderman 2021, "GPT-Neo: Large Scale Autoregressive Language Modeling with Mesh-Tensorflow";
no paper, so the numbers are those of the authors' configurations. Against GPT-3: queries, keys and values have no bias
and scores no factor 1/√c, and all weights start from a normal distribution of deviation 0.02.
"""

from dataclasses import dataclass
from functools import partial

from torch import nn

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.cache import Cache
from fieldguide.blocks.decoding import LanguageModel
from fieldguide.blocks.embeddings import Embeddings, require_tokens, tied_logits
from fieldguide.blocks.feedforward import FeedForward
from fieldguide.blocks.masks import Causal, Mask, Padding, Window
from fieldguide.blocks.positions import Learned
from fieldguide.blocks.transformer import PreNormBlock, Stack
from fieldguide.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True, kw_only=True)
class GPTNeoConfig:
    vocab_size: int = 50257
    max_len: int = 2048
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    window: int = 256
    """Tokens, itself included, that a token sees in every second layer."""
    dropout: float = 0.0


SIZES = {
    "gpt_neo_125m": GPTNeoConfig(),
    "gpt_neo_1_3b": GPTNeoConfig(d_model=2048, num_layers=24, num_heads=16),
    "gpt_neo_2_7b": GPTNeoConfig(d_model=2560, num_layers=32, num_heads=20),
    "gpt_neo_mini": GPTNeoConfig(vocab_size=256, max_len=128, d_model=64, num_layers=2, num_heads=4, window=16),
}


class GPTNeo(LanguageModel):
    """``tokens (b, n) → logits (b, n, vocab_size)`` of what follows each token; the output is tied to the input."""

    def __init__(self, config: GPTNeoConfig):
        super().__init__()
        c = self.config = config
        tokens, positions = nn.Embedding(c.vocab_size, c.d_model), Learned(c.max_len, c.d_model)
        self.embeddings = Embeddings(tokens, positions, dropout=c.dropout)
        masks = [Causal(), Causal() & Window(c.window)]
        self.decoder = Stack(self._layer(c, masks[i % 2]) for i in range(c.num_layers))
        self.apply(_init)

    @staticmethod
    def _layer(c: GPTNeoConfig, mask: Mask) -> PreNormBlock:
        return PreNormBlock(
            Attention(c.d_model, c.num_heads, mask=mask, scale=1.0, dropout=c.dropout, biased=("output",)),
            FeedForward(c.d_model, 4 * c.d_model, activation=nn.GELU("tanh")),
            branch=partial(nn.Dropout, c.dropout),
        )

    def hidden(
        self, tokens: Int[Tensor, "b n"], keep: Bool[Tensor, "b total"] | None = None, cache: Cache | None = None
    ) -> Float[Tensor, "b n d"]:
        require_tokens(tokens, vocab_size=self.config.vocab_size, model="GPTNeo", keep=keep)
        x = self.embeddings(tokens, keep=keep, cache=cache)
        return self.decoder(x, mask=Padding.of(keep), cache=cache)

    def logits(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n v"]:
        return tied_logits(hidden, self.embeddings.tokens.weight)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
