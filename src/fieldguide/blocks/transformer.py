"""Transformer blocks, named by where their norm sits, and stacks of them.

A block with ``cross_attention`` is a decoder block; with ``Attention(..., mask=Causal())`` it does not look ahead.

b batch · n tokens · m memory tokens · d model width · e memory width.
"""

from collections.abc import Callable, Iterable

from torch import nn

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.biases import Bias
from fieldguide.blocks.cache import Cache
from fieldguide.blocks.masks import Full, Mask
from fieldguide.blocks.norms import Norm
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor


class _Block(nn.Module):
    """The parts that both kinds of block have.

    ``norm`` builds a norm for a width. ``branch`` builds what every sublayer's output passes before it is added, such
    as ``partial(nn.Dropout, 0.1)`` or ``lambda: nn.Sequential(LayerScale(d_model), StochasticDepth(0.1))``.
    """

    def __init__(
        self,
        attention: Attention,
        feedforward: nn.Module,
        *,
        cross_attention: Attention | None = None,
        norm: Norm = nn.LayerNorm,
        branch: Callable[[], nn.Module] = nn.Identity,
    ):
        super().__init__()
        self.d_model, self._norm = attention.d_model, norm
        self.attention, self.attention_norm, self.attention_branch = attention, norm(self.d_model), branch()
        self.cross_attention = cross_attention
        if cross_attention is not None:
            self.cross_attention_norm, self.cross_attention_branch = norm(self.d_model), branch()
        self.feedforward, self.feedforward_norm, self.feedforward_branch = feedforward, norm(self.d_model), branch()

    def _check(self, x: Tensor, memory: Tensor | None) -> None:
        name = type(self).__name__
        if x.shape[-1] != self.d_model:
            raise FieldguideError(f"{name} was built for d_model={self.d_model}, got tokens {tuple(x.shape)}")
        if (memory is None) == (self.cross_attention is not None):
            found = "needs memory (the encoder's output)" if memory is None else "has no cross_attention for memory"
            raise FieldguideError(f"{name} {found}; build it with cross_attention exactly when memory is given")


class PreNormBlock(_Block):
    """Every sublayer sees a normalised copy, ``x + f(norm(x))``; a stack of these ends in a norm of its own.

    Xiong et al. 2020, table 1 right: the block of GPT-2, T5 and ViT.
    """

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        memory: Float[Tensor, "b m e"] | None = None,
        *,
        mask: Mask = Full(),
        memory_mask: Mask = Full(),
        bias: Bias | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Tokens → tokens; ``mask`` holds data such as padding, ``memory_mask`` the same for memory.

        ``bias`` is added to the scores of the self-attention.
        """
        self._check(x, memory)
        x = x + self.attention_branch(self.attention(self.attention_norm(x), mask=mask, bias=bias, cache=cache))
        if self.cross_attention is not None:
            y = self.cross_attention(self.cross_attention_norm(x), memory, mask=memory_mask, cache=cache)
            x = x + self.cross_attention_branch(y)
        return x + self.feedforward_branch(self.feedforward(self.feedforward_norm(x)))

    def final_norm(self) -> nn.Module:
        """What a stack of these blocks ends in."""
        return self._norm(self.d_model)


class PostNormBlock(_Block):
    """Every sum is normalised, ``norm(x + f(x))``; a stack of these needs no norm after it.

    Vaswani et al. 2017, §3.1: the block of the first Transformer and BERT.
    """

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        memory: Float[Tensor, "b m e"] | None = None,
        *,
        mask: Mask = Full(),
        memory_mask: Mask = Full(),
        bias: Bias | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Tokens → tokens; ``mask`` holds data such as padding, ``memory_mask`` the same for memory.

        ``bias`` is added to the scores of the self-attention.
        """
        self._check(x, memory)
        x = self.attention_norm(x + self.attention_branch(self.attention(x, mask=mask, bias=bias, cache=cache)))
        if self.cross_attention is not None:
            y = self.cross_attention(x, memory, mask=memory_mask, cache=cache)
            x = self.cross_attention_norm(x + self.cross_attention_branch(y))
        return self.feedforward_norm(x + self.feedforward_branch(self.feedforward(x)))

    def final_norm(self) -> nn.Module:
        """Nothing: the last sum of a stack is normalised already."""
        return nn.Identity()


class Stack(nn.Module):
    """Blocks one after the other: an encoder, or a decoder when they have cross-attention.

    The final norm is the one that the blocks call for: of their own kind after pre-norm blocks, none after post-norm.
    ``bias`` is added to the scores of every self-attention and, as in T5, one for all of them.
    """

    def __init__(self, layers: Iterable[PreNormBlock | PostNormBlock], *, bias: Bias | None = None):
        super().__init__()
        layers = list(layers)
        if len({type(layer) for layer in layers}) != 1:
            raise FieldguideError("Stack: takes at least one block, all PreNormBlock or all PostNormBlock")
        self.layers = nn.ModuleList(layers)
        self.bias = bias
        self.norm = layers[-1].final_norm()

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        memory: Float[Tensor, "b m e"] | None = None,
        *,
        mask: Mask = Full(),
        memory_mask: Mask = Full(),
        cache: Cache | None = None,
    ) -> Float[Tensor, "b n d"]:
        for layer in self.layers:
            x = layer(x, memory, mask=mask, memory_mask=memory_mask, bias=self.bias, cache=cache)
        return self.norm(x)
