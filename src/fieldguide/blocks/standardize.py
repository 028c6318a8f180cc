"""Units of measurement as part of a network, so that it takes and gives the numbers of a table as they are.

b batch · f features.
"""

from collections.abc import Sequence

import torch
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor


class Standardize(nn.Module):
    """(x − mean) / std of each feature, ``(b, f) → (b, f)`` (LeCun et al. 1998, "Efficient BackProp", §4.3).

    Both are buffers that no training moves: 0 and 1 until ``set``, and saved with the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, num_features: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.ones(num_features))

    @torch.no_grad()
    def set(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Takes the statistics, best of the training part alone.

        Raises ``FieldguideError`` when there is not one of each for every feature, or a std is not above 0.
        """
        features = len(self.mean)
        if not len(mean) == len(std) == features or not all(deviation > 0 for deviation in std):
            raise FieldguideError(
                f"Standardize: {features} features need as many means and standard deviations above 0, "
                f"not {len(mean)} and {list(std)}"
            )
        self.mean.copy_(torch.tensor(mean, dtype=torch.float64))
        self.std.copy_(torch.tensor(std, dtype=torch.float64))

    def forward(self, x: Float[Tensor, "b f"]) -> Float[Tensor, "b f"]:
        return (x - self.mean) / self.std

    def undo(self, z: Float[Tensor, "b f"]) -> Float[Tensor, "b f"]:
        """The inverse: z · std + mean."""
        return z * self.std + self.mean
