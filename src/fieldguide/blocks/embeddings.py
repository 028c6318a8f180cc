"""Token indices as vectors: scaled embeddings, and the sum of token, position and segment.

b batch · n tokens · d model width.
"""

from math import sqrt

import torch
import torch.nn.functional as F
from torch import nn

from fieldguide.blocks.cache import Cache
from fieldguide.blocks.positions import Learned, positions_of
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Bool, Float, Int, Tensor

ALIGNED, MANY = 64, 256
"""The width that fits a GPU's products, and how many rows it takes to pay for it."""


def require_tokens(tokens: Tensor, *, vocab_size: int, model: str, keep: Tensor | None = None) -> Int[Tensor, "b n"]:
    """The tokens; :class:`FieldguideError` for an empty text, one outside the vocabulary, a row without a real token.

    ``keep`` is Boolean and at least as long, for it marks cached tokens too. Values are looked at where that is cheap:
    on the CPU, and not while a graph is traced.
    """
    if tokens.ndim != 2 or tokens.is_floating_point() or tokens.shape[1] == 0:
        raise FieldguideError(
            f"{model} takes tokens (batch, length) as whole numbers, at least one each, got {tuple(tokens.shape)} of "
            f"{str(tokens.dtype).removeprefix('torch.')}"
        )
    if not _may_look_at(tokens):
        return tokens
    outside = (tokens < 0) | (tokens >= vocab_size)
    if outside.any():
        row, place = outside.nonzero()[0].tolist()
        raise FieldguideError(
            f"{model}: token {int(tokens[row, place])} at place {place} of row {row} is outside "
            f"vocab_size={vocab_size}; the tokenizer and the model do not belong together"
        )
    if keep is None:
        return tokens
    fits = keep.ndim == 2 and len(keep) == len(tokens) and keep.shape[1] >= tokens.shape[1]
    if keep.dtype != torch.bool or not fits:
        raise FieldguideError(
            f"{model}: keep {tuple(keep.shape)} of {str(keep.dtype).removeprefix('torch.')} does not mark tokens "
            f"{tuple(tokens.shape)}; it is Boolean, True for each real token, cached ones included"
        )
    if not (real := keep.any(1)).all():
        row = int(real.logical_not().nonzero()[0])
        raise FieldguideError(f"{model}: row {row} of keep has no real token; leave empty texts out")
    return tokens


def _may_look_at(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and type(x) is Tensor


def tied_logits(
    hidden: Float[Tensor, "*n d"], table: Float[Tensor, "v d"], bias: Float[Tensor, "v"] | None = None
) -> Float[Tensor, "*n v"]:
    """hidden · tableᵀ + bias: an output layer that shares its weights with the input (Press & Wolf 2017, §2).

    A GPU has its fast products of 16-bit numbers for widths that are multiples of 8 alone, and few vocabularies are, so
    the table is a little wider meanwhile.
    """
    odd = -len(table) % ALIGNED if hidden.is_cuda and hidden.numel() >= MANY * hidden.shape[-1] else 0
    if odd and (hidden.dtype.itemsize == 2 or torch.is_autocast_enabled("cuda")):
        wider = None if bias is None else F.pad(bias, (0, odd))
        return F.linear(hidden, F.pad(table, (0, 0, 0, odd)), wider)[..., : len(table)]
    return F.linear(hidden, table, bias)


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
        segments: Tensor | None = None,
        positions: Int[Tensor, "b n"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "b n d"]:
        """With ``keep`` only real tokens count as positions, unless ``positions`` are given. ``segments`` default to 0.

        Raises :class:`FieldguideError` for segments that the module has no table, or no row of it, for, and for a text
        that is longer, cached tokens included, than a table of positions.
        """
        if cache is not None and isinstance(self.positions, Learned):
            self.positions.require_room(cache.length + tokens.shape[1])
        x = self.tokens(tokens) + self.positions(positions_of(tokens, keep, cache) if positions is None else positions)
        if segments is not None:
            x = x + self._segments_of(segments, tokens)
        elif self.segments is not None:
            x = x + self.segments.weight[0]
        return self.dropout(self.norm(x))

    def _segments_of(self, segments: Tensor, tokens: Tensor) -> Float[Tensor, "b n d"]:
        if self.segments is None:
            raise FieldguideError(
                "Embeddings has no segment table: this network does not tell segments apart; leave them out, "
                "or build one with segments=nn.Embedding(2, d_model)"
            )
        if segments.shape != tokens.shape:
            raise FieldguideError(
                f"Embeddings: segments {tuple(segments.shape)} do not fit tokens {tuple(tokens.shape)}; give one each"
            )
        if _may_look_at(segments) and not ((segments >= 0) & (segments < self.segments.num_embeddings)).all():
            raise FieldguideError(
                f"Embeddings: segments run from {int(segments.min())} to {int(segments.max())}, but the table has "
                f"{self.segments.num_embeddings} rows, from 0; does the tokenizer belong to this network?"
            )
        return self.segments(segments)
