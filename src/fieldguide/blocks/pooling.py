"""From a map or a sequence to one vector, or to a coarser map.

b batch · c channels · n tokens · d model width.
"""

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate

from fieldguide.shapes import Bool, Float, Tensor


class GlobalAverage(nn.Module):
    """The mean over all positions, ``(b, c, *spatial) → (b, c)`` (Lin, Chen & Yan 2014, §3.2)."""

    def forward(self, x: Float[Tensor, "b c *spatial"]) -> Float[Tensor, "b c"]:
        return x.flatten(2).mean(-1)


class SubSampling(nn.Module):
    """The mean of every 2×2, times a trained coefficient plus a trained bias per map (LeCun et al. 1998, §II.B, S2).

    ``(b, c, h, w) → (b, c, ⌊h/2⌋, ⌊w/2⌋)``. The paper adds the four, so its coefficient is a quarter of this one.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        return avg_pool2d(x, 2) * self.weight[:, None, None] + self.bias[:, None, None]


class AtLeast(nn.Module):
    """A map whose sides below ``side`` are enlarged to it by repetition, for layers that need so many positions."""

    def __init__(self, side: int):
        super().__init__()
        self.side = side

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c i j"]:
        return interpolate(x, [max(self.side, length) for length in x.shape[2:]])

    def extra_repr(self) -> str:
        return f"side={self.side}"


class FirstToken(nn.Module):
    """The class token, ``(b, n, d) → (b, d)`` (Devlin et al. 2019, §3)."""

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        return x[:, 0]


class MeanToken(nn.Module):
    """The mean over real tokens, ``(b, n, d) → (b, d)``; a row without a real token gives zeros."""

    def forward(self, x: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None = None) -> Float[Tensor, "b d"]:
        if keep is None:
            return x.mean(1)
        real = keep.unsqueeze(-1)
        return x.where(real, 0).sum(1) / real.sum(1).clamp(min=1)
