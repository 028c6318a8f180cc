"""From a map or a sequence to one vector.

b batch · c channels · n tokens · d model width.
"""

from torch import nn

from fieldguide.shapes import Bool, Float, Tensor


class GlobalAverage(nn.Module):
    """The mean over all positions, ``(b, c, *spatial) → (b, c)`` (Lin, Chen & Yan 2014, §3.2)."""

    def forward(self, x: Float[Tensor, "b c *spatial"]) -> Float[Tensor, "b c"]:
        return x.flatten(2).mean(-1)


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
