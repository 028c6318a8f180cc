"""What stands on a text encoder: nothing, or the logits of masked tokens, of two texts in order, or of a whole text.

Every head is called ``head(hidden, table)``, with the encoder's output and the vectors of its vocabulary: the logits of
tokens are tied to them, and a table that is an argument is stored once.

b batch · n tokens · d model width · v vocabulary · k classes.
"""

import torch
from torch import nn

from fieldguide.blocks.embeddings import tied_logits
from fieldguide.blocks.norms import Norm
from fieldguide.shapes import Float, Tensor


class Pooler(nn.Module):
    """activation(dense(first token)), the vector of a whole text, ``(b, n, d) → (b, d)``.

    Devlin et al. 2019, §3: the final state of ``[CLS]``; the dense layer is in their code. ``activation`` is a new Tanh
    unless given; ``dropout`` acts on the first token.
    """

    def __init__(self, d_model: int, *, activation: nn.Module | None = None, dropout: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(d_model, d_model)
        self.activation = nn.Tanh() if activation is None else activation

    def forward(self, hidden: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        return self.activation(self.dense(self.dropout(hidden[:, 0])))


class Hidden(nn.Module):
    """The hidden states as they are. A ``pooler`` takes no part: it stands by for those who call it on them."""

    def __init__(self, pooler: Pooler | None = None):
        super().__init__()
        self.pooler = pooler

    def forward(self, hidden: Float[Tensor, "b n d"], table: Float[Tensor, "v d"]) -> Float[Tensor, "b n d"]:
        return hidden


class MaskedTokens(nn.Module):
    """norm(gelu(transform(x))) · tableᵀ + bias: the logits of the token at every place, ``(b, n, d) → (b, n, v)``.

    Devlin et al. 2019, §3.1 "Masked LM"; the transformation is in their code.
    """

    def __init__(self, d_model: int, vocab_size: int, *, norm: Norm = nn.LayerNorm):
        super().__init__()
        self.transform = nn.Linear(d_model, d_model)
        self.activation = nn.GELU()
        self.norm = norm(d_model)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, hidden: Float[Tensor, "b n d"], table: Float[Tensor, "v d"]) -> Float[Tensor, "b n v"]:
        return tied_logits(self.norm(self.activation(self.transform(hidden))), table, self.bias)


class Pretraining(nn.Module):
    """Both of BERT's tasks: ``(b, n, d) → logits of tokens (b, n, v), logits of the order of two texts (b, 2)``.

    Devlin et al. 2019, §3.1 "Next Sentence Prediction": class 0 where the second text follows the first, 1 where not.
    """

    def __init__(self, masked: MaskedTokens, pooler: Pooler):
        super().__init__()
        self.masked, self.pooler = masked, pooler
        self.next_sentence = nn.Linear(pooler.dense.out_features, 2)

    def forward(
        self, hidden: Float[Tensor, "b n d"], table: Float[Tensor, "v d"]
    ) -> tuple[Float[Tensor, "b n v"], Float[Tensor, "b 2"]]:
        return self.masked(hidden, table), self.next_sentence(self.pooler(hidden))


class TextClassifier(nn.Module):
    """output(dropout(pooled)): the logits of a whole text, ``(b, n, d) → (b, k)`` (Devlin et al. 2019, §4.1)."""

    def __init__(self, pooler: Pooler, num_classes: int, *, dropout: float = 0.0):
        super().__init__()
        self.pooler = pooler
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(pooler.dense.out_features, num_classes)

    def forward(self, hidden: Float[Tensor, "b n d"], table: Float[Tensor, "v d"]) -> Float[Tensor, "b k"]:
        return self.output(self.dropout(self.pooler(hidden)))
