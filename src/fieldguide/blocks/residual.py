"""Residual wrappers – where the norm sits – and what a branch may pass on its way to the sum.

b batch · d model width.
"""

import torch
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor


class PreNorm(nn.Module):
    """x + branch(sublayer(norm(x))): the sum stays un-normalised, so a stack of these ends in a norm of its own.

    Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture", table 1 right. ``branch`` is dropout,
    :class:`LayerScale`, :class:`StochasticDepth` or a sequence of them.
    """

    def __init__(self, sublayer: nn.Module, norm: nn.Module, branch: nn.Module | None = None):
        super().__init__()
        self.norm = norm
        self.sublayer = sublayer
        self.branch = branch or nn.Identity()

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return x + self.branch(self.sublayer(self.norm(x)))


class PostNorm(nn.Module):
    """norm(x + branch(sublayer(x))): the sum itself is normalised; a stack of these needs no final norm.

    Vaswani et al. 2017, §3.1.
    """

    def __init__(self, sublayer: nn.Module, norm: nn.Module, branch: nn.Module | None = None):
        super().__init__()
        self.sublayer = sublayer
        self.branch = branch or nn.Identity()
        self.norm = norm

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return self.norm(x + self.branch(self.sublayer(x)))


class Sandwich(nn.Module):
    """x + branch(norm_after(sublayer(norm(x)))): normalised at both ends (Ding et al. 2021, CogView, §2.4)."""

    def __init__(self, sublayer: nn.Module, norm: nn.Module, norm_after: nn.Module, branch: nn.Module | None = None):
        super().__init__()
        self.norm = norm
        self.sublayer = sublayer
        self.norm_after = norm_after
        self.branch = branch or nn.Identity()

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return x + self.branch(self.norm_after(self.sublayer(self.norm(x))))


class StochasticDepth(nn.Module):
    """In training, drops a sample's whole branch with probability ``rate`` and scales the kept ones by 1 / (1 − rate).

    Huang et al. 2016, eq. 2 and 5; the paper scales at test time instead, which has the same expectation.
    """

    def __init__(self, rate: float):
        super().__init__()
        if not 0 <= rate < 1:
            raise FieldguideError(f"StochasticDepth: rate {rate} is not a probability in [0, 1)")
        self.rate = rate

    def forward(self, x: Float[Tensor, "b *rest"]) -> Float[Tensor, "b *rest"]:
        if not self.training or self.rate == 0:
            return x
        keep = torch.full((len(x), *[1] * (x.ndim - 1)), 1 - self.rate, dtype=x.dtype, device=x.device)
        return x * (torch.bernoulli(keep) / (1 - self.rate))  # one pass over the map

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


class LayerScale(nn.Module):
    """A learned factor per channel (last axis), small at the start (Touvron et al. 2021, CaiT, eq. 4)."""

    def __init__(self, d_model: int, init: float = 1e-5):
        super().__init__()
        self.scale = nn.Parameter(torch.full((d_model,), init))

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return x * self.scale
