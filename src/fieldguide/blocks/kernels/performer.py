"""FAVOR+: positive orthogonal random features whose products estimate exp(q·k) (Choromanski et al. 2021, §2.2–2.4).

Axes: b batch, h heads, n tokens, c head width, f features.
"""

import math

import torch

from fieldguide.blocks.kernels.linear import stretches
from fieldguide.shapes import Float, Tensor


def orthogonal_gaussian(features: int, width: int) -> Float[Tensor, "f c"]:
    """Gaussian vectors made orthogonal in blocks of ``width`` (§2.4), each as long as a Gaussian vector is."""
    blocks = [_rotation(width) for _ in range(math.ceil(features / width))]
    lengths = torch.randn(features, width, dtype=torch.float64).norm(dim=1, keepdim=True)
    return torch.cat(blocks)[:features] * lengths


def _rotation(width: int) -> Float[Tensor, "c c"]:
    q, r = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))
    return q * r.diagonal().sign()  # without the signs QR prefers some directions (Mezzadri 2007)


def query_features(
    q: Float[Tensor, "b h n c"], projection: Float[Tensor, "f c"], scale: float
) -> Float[Tensor, "b h n f"]:
    """``exp(ωᵀx − |x|²/2)`` of x = √scale · q over its largest entry, query by query: a factor that cancels later."""
    exponents = _exponents(q, projection, scale)
    return (exponents - exponents.detach().amax(-1, keepdim=True)).exp()


def key_features(
    k: Float[Tensor, "b h n c"], projection: Float[Tensor, "f c"], scale: float, largest: Float[Tensor, "b h 1 1"]
) -> Float[Tensor, "b h n f"]:
    """The same of keys over the largest entry of the whole sequence: one factor for all of them, so it cancels too."""
    return (_exponents(k, projection, scale) - largest).exp()


@torch.no_grad()
def largest_exponent(
    k: Float[Tensor, "b h n c"], projection: Float[Tensor, "f c"], scale: float
) -> Float[Tensor, "b h 1 1"]:
    """What :func:`key_features` subtracts, found stretch by stretch so as not to hold all features at once."""
    peaks = [_exponents(x, projection, scale).amax((-2, -1), keepdim=True) for x in stretches(k)]
    return torch.cat(peaks, 2).amax(2, keepdim=True)


def _exponents(x: Tensor, projection: Tensor, scale: float) -> Tensor:
    return x @ (projection * scale**0.5).T - x.square().sum(-1, keepdim=True) * (scale / 2)
