"""Keys and values projected from n tokens to a fixed number of slots (Wang et al. 2020, eq. 7).

Axes: b batch, h heads, n tokens, c head width, s slots.
"""

from fieldguide.shapes import Float, Tensor


def project(x: Float[Tensor, "b h n c"], projection: Float[Tensor, "longest s"]) -> Float[Tensor, "b h s c"]:
    """``Eᵀ x``: each slot is a weighted sum over tokens; the first n rows of the projection serve a shorter input."""
    return projection[: x.shape[2]].T @ x
