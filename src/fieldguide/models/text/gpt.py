"""GPT: a stack of causal Transformer layers that predicts the next token, from GPT-1 to GPT-3.

Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", §3.1 and 4.1; Radford et al. 2019,
"Language Models are Unsupervised Multitask Learners", §2.3; Brown et al. 2020, "Language Models are Few-Shot
Learners", §2.1 and table 2.1. GPT-1 normalises after each sublayer, GPT-2 before it and once more at the end; GPT-3 is
GPT-2 with every second layer's attention banded. The paper does not tell the width of that band: 256 is GPT-Neo's.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.cache import Cache
from fieldguide.blocks.decoding import LanguageModel
from fieldguide.blocks.embeddings import Embeddings, require_tokens, tied_logits
from fieldguide.blocks.feedforward import FeedForward
from fieldguide.blocks.masks import Causal, Full, Mask, Padding, Window
from fieldguide.blocks.positions import Learned
from fieldguide.blocks.transformer import PostNormBlock, PreNormBlock, Stack
from fieldguide.shapes import Bool, Float, Int, Tensor

BLOCKS = {"pre": PreNormBlock, "post": PostNormBlock}


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    vocab_size: int = 50257
    max_len: int = 1024
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    norm: Literal["pre", "post"] = "pre"
    window: int | None = None
    """Tokens, itself included, that a token sees in every second layer; all of them if None."""
    dropout: float = 0.1


SIZES = {
    "gpt1": GPTConfig(vocab_size=40478, max_len=512, norm="post"),
    "gpt2": GPTConfig(),
    "gpt2_medium": GPTConfig(d_model=1024, num_layers=24, num_heads=16),
    "gpt2_large": GPTConfig(d_model=1280, num_layers=36, num_heads=20),
    "gpt2_xl": GPTConfig(d_model=1600, num_layers=48, num_heads=25),
    "gpt3_175b": GPTConfig(max_len=2048, d_model=12288, num_layers=96, num_heads=96, window=256, dropout=0.0),
    "gpt_mini": GPTConfig(vocab_size=256, max_len=128, d_model=64, num_layers=2, num_heads=4, dropout=0.0),
}


class GPT(LanguageModel):
    """``tokens (b, n) → logits (b, n, vocab_size)`` of what follows each token; the output is tied to the input."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        c = self.config = config
        tokens, positions = nn.Embedding(c.vocab_size, c.d_model), Learned(c.max_len, c.d_model)
        self.embeddings = Embeddings(tokens, positions, dropout=c.dropout)
        banded: Mask = Full() if c.window is None else Window(c.window)
        masks = [Causal(), Causal() & banded]
        self.decoder = Stack(self._layer(c, masks[i % 2]) for i in range(c.num_layers))
        self.apply(_init)
        self._shrink_residuals()

    @staticmethod
    def _layer(c: GPTConfig, mask: Mask) -> PreNormBlock | PostNormBlock:
        return BLOCKS[c.norm](
            Attention(c.d_model, c.num_heads, mask=mask, dropout=c.dropout),
            FeedForward(c.d_model, 4 * c.d_model, activation=nn.GELU("tanh")),
            branch=partial(nn.Dropout, c.dropout),
        )

    def hidden(
        self, tokens: Int[Tensor, "b n"], keep: Bool[Tensor, "b total"] | None = None, cache: Cache | None = None
    ) -> Float[Tensor, "b n d"]:
        require_tokens(tokens, vocab_size=self.config.vocab_size, model="GPT", keep=keep)
        x = self.embeddings(tokens, keep=keep, cache=cache)
        return self.decoder(x, mask=Padding.of(keep), cache=cache)

    def logits(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n v"]:
        return tied_logits(hidden, self.embeddings.tokens.weight)

    def _shrink_residuals(self) -> None:
        """With L layers, 2·L sums: what GPT-2 and GPT-3 add begins smaller by √(2·L) (Radford et al. 2019, §2.3)."""
        for name, weight in self.named_parameters():
            if self.config.norm == "pre" and name.endswith(("attention.output.weight", "feedforward.contract.weight")):
                nn.init.normal_(weight, std=0.02 / (2 * self.config.num_layers) ** 0.5)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
