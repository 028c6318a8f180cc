"""Multi-layer perceptron: layers of units that each see all of the layer before, for the rows of a table.

Rumelhart, Hinton & Williams 1986, "Learning representations by back-propagating errors". Against the paper: SiLU or
ReLU instead of sigmoids, linear outputs, dropout between the layers (Srivastava et al. 2014), and the units of
measurement are part of the network, so that it takes and gives the numbers of the table.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import nn

from fieldguide.blocks.standardize import Standardize
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    in_features: int = 8
    out_features: int = 1
    """Numbers to tell, or classes."""
    hidden: tuple[int, ...] = (256, 256)
    """Units of each hidden layer."""
    activation: Literal["relu", "silu", "gelu", "tanh", "sigmoid"] = "silu"
    dropout: float = 0.0


SIZES = {
    "mlp": MLPConfig(),
    "mlp_mini": MLPConfig(hidden=(32, 32)),
}


class MLP(nn.Module):
    """``rows (b, in_features) → (b, out_features)``: numbers in the table's units, or logits of classes.

    Give ``inputs`` and, for numbers, ``outputs`` the statistics of the training rows (``set``); a unit is 1 until then.
    """

    def __init__(self, config: MLPConfig):
        super().__init__()
        c = self.config = config
        widths = (c.in_features, *c.hidden)
        self.inputs = Standardize(c.in_features)
        self.hidden = nn.Sequential(*(self._layer(a, b, c) for a, b in pairwise(widths)))
        self.head = nn.Linear(widths[-1], c.out_features)
        self.outputs = Standardize(c.out_features)

    @staticmethod
    def _layer(inputs: int, units: int, c: MLPConfig) -> nn.Module:
        return nn.Sequential(nn.Linear(inputs, units), ACTIVATIONS[c.activation](), nn.Dropout(c.dropout))

    def forward(self, x: Float[Tensor, "b f"]) -> Float[Tensor, "b t"]:
        if x.ndim != 2 or x.shape[1] != self.config.in_features:
            raise FieldguideError(f"MLP takes rows (b, {self.config.in_features}), got {tuple(x.shape)}")
        return self.outputs.undo(self.head(self.hidden(self.inputs(x))))
