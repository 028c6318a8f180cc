"""Position-wise feed-forward layers: plain, and gated (the GLU family).

b batch · d model width.
"""

from torch import nn

from fieldguide.shapes import Float, Tensor


class FeedForward(nn.Module):
    """contract(activation(expand(x))) at every position, ``(*b, d) → (*b, d)`` (Vaswani et al. 2017, eq. 2).

    ``activation`` is a new exact GELU by default, as in BERT and ViT; the paper has ``nn.ReLU()``. ``dropout`` acts on
    the hidden units.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        activation: nn.Module | None = None,
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        self.expand = nn.Linear(d_model, d_ff, bias)
        self.activation = nn.GELU() if activation is None else activation
        self.dropout = nn.Dropout(dropout)
        self.contract = nn.Linear(d_ff, d_model, bias)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return self.contract(self.dropout(self.activation(self.expand(x))))


class GatedFeedForward(nn.Module):
    """contract(activation(gate(x)) · expand(x)), ``(*b, d) → (*b, d)`` (Shazeer 2020, "GLU Variants", eq. 5 and 6).

    The activation names the variant: ``nn.SiLU()`` SwiGLU (the default), ``nn.GELU()`` GEGLU, ``nn.ReLU()`` ReGLU,
    ``nn.Sigmoid()`` GLU, ``nn.Identity()`` bilinear. With ``d_ff`` at 2/3 of the plain layer's it has as many weights.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        activation: nn.Module | None = None,
        dropout: float = 0.0,
        bias: bool = False,
    ):
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias)
        self.expand = nn.Linear(d_model, d_ff, bias)
        self.activation = nn.SiLU() if activation is None else activation
        self.dropout = nn.Dropout(dropout)
        self.contract = nn.Linear(d_ff, d_model, bias)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return self.contract(self.dropout(self.activation(self.gate(x)) * self.expand(x)))
