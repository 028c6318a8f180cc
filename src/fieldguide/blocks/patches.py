"""Images as sequences of patches.

b batch · c channels · h, w height and width · n patches · d model width.
"""

from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor


class PatchEmbedding(nn.Module):
    """Cuts an image into squares and projects each linearly, ``(b, c, h, w) → (b, n, d)``, row by row.

    ``image_size`` is a side or ``(height, width)``; ``grid`` has the rows and columns of patches.

    Dosovitskiy et al. 2021, eq. 1 (x_p E): a convolution whose kernel is its stride does the same.
    Raises :class:`FieldguideError` when an image is not of ``image_size`` or not divisible into patches.
    """

    grid: tuple[int, int]

    def __init__(self, image_size: int | tuple[int, int], patch_size: int, in_channels: int, d_model: int):
        super().__init__()
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else image_size
        if any(side % patch_size for side in self.image_size):
            near = tuple(max(1, round(side / patch_size)) * patch_size for side in self.image_size)
            raise FieldguideError(
                f"PatchEmbedding: image_size={image_size} is not a multiple of patch_size={patch_size}; "
                f"use image_size={near[0] if isinstance(image_size, int) else near}"
            )
        height, width = self.grid = self.image_size[0] // patch_size, self.image_size[1] // patch_size
        self.num_patches = height * width
        self.projection = nn.Conv2d(in_channels, d_model, patch_size, stride=patch_size)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        expected = (self.projection.in_channels, *self.image_size)
        if tuple(x.shape[1:]) != expected:
            raise FieldguideError(
                f"PatchEmbedding takes images (batch, {', '.join(map(str, expected))}), got {tuple(x.shape)}; "
                "resize them or create the model with another image_size or in_channels"
            )
        return self.projection(x).flatten(2).transpose(1, 2)
