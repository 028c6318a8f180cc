"""Token indices as vectors: scaled embeddings, and the sum of token, position and segment.

b batch · n tokens · d model width.
"""

from math import sqrt

import torch
from torch import nn

from fieldguide.blocks.cache import Cache
from fieldguide.blocks.positions import positions_of
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Bool, Float, Int, Tensor


def require_tokens(
    tokens: Int[Tensor, "b n"], *, vocab_size: int, model: str, keep: Bool[Tensor, "b total"] | None = None
) -> Int[Tensor, "b n"]:
    """The tokens; :class:`FieldguideError` for an empty text, one outside the vocabulary, a row without a real token.

    The values are looked at where that is cheap: on the CPU, and not while a graph is traced.
    """
    if tokens.ndim != 2 or tokens.is_floating_point() or tokens.shape[1] == 0:
        raise FieldguideError(
            f"{model} takes tokens (batch, length) as whole numbers, at least one each, got {tuple(tokens.shape)} of "
            f"{str(tokens.dtype).removeprefix('torch.')}"
        )
    if tokens.device.type != "cpu" or torch.compiler.is_compiling() or type(tokens) is not Tensor:
        return tokens
    outside = (tokens < 0) | (tokens >= vocab_size)
    if outside.any():
        row, place = outside.nonzero()[0].tolist()
        raise FieldguideError(
            f"{model}: token {int(tokens[row, place])} at place {place} of row {row} is outside vocab_size={vocab_size}; "
            "the tokenizer and the model do not belong together"
        )
    if keep is not None and not (real := keep.any(1)).all():
        row = int(real.logical_not().nonzero()[0])
        raise FieldguideError(f"{model}: row {row} of keep has no real token; leave empty texts out")
    return tokens


class ScaledEmbedding(nn.Embedding):
    """Token vectors multiplied by √d_model (Vaswani et al. 2017, §3.4), which BERT, GPT and ViT do not do.

    Initialised with variance 1 / d_model, so that the vectors match the unit scale of sinusoidal positions and the same
    table can serve as output layer.
    """

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.embedding_dim**-0.5)

    def forward(self, input: Int[Tensor, "*n"]) -> Float[Tensor, "*n d"]:
        return super().forward(input) * sqrt(self.embedding_dim)


class Embeddings(nn.Module):
    """dropout(norm(token + position + segment)), ``(b, n) → (b, n, d)`` (Devlin et al. 2019, fig. 2).

    BERT adds three tables, norm and dropout; GPT has no segments and no norm; the Transformer takes
    :class:`ScaledEmbedding` and sinusoidal positions. ``positions`` maps indices to vectors (``positions.py``).
    """

    def __init__(
        self,
        tokens: nn.Embedding,
        positions: nn.Module,
        *,
        segments: nn.Embedding | None = None,
        norm: nn.Module | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.tokens, self.positions, self.segments = tokens, positions, segments
        self.norm = nn.Identity() if norm is None else norm
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        tokens: Int[Tensor, "b n"],
        *,
        keep: Bool[Tensor, "b total"] | None = None,
        segments: Int[Tensor, "b n"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "b n d"]:
        """With ``keep`` only real tokens count as positions; ``segments`` are all 0 unless given.

        Raises :class:`FieldguideError` for segments that the module has no table for.
        """
        x = self.tokens(tokens) + self.positions(positions_of(tokens, keep, cache))
        if self.segments is not None:
            x = x + (self.segments.weight[0] if segments is None else self.segments(segments))
        elif segments is not None:
            raise FieldguideError("Embeddings has no segment table; build it with segments=nn.Embedding(2, d_model)")
        return self.dropout(self.norm(x))
