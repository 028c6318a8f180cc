"""One rule for the size and the channels of images, shared by training and prediction.

Legend: n images, c channels, h height, w width.
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from fieldguide.errors import FieldguideError
from fieldguide.shapes import Tensor, UInt8

_CHUNK_BYTES = 1 << 26
PIXEL_LIMIT = 1 << 26
"""Of one image: a photograph of 60 million pixels is below it, a file that unpacks into gigabytes is not."""


def resize(images: UInt8[Tensor, "n c h w"], size: int | tuple[int, int]) -> UInt8[Tensor, "n c h2 w2"]:
    """Scale uint8 images until they just cover ``size`` (height, width; an int is a square), then crop the centre.

    For a square that is "shorter side, then centre crop". Antialiased bilinear; an image that already has the size
    is returned as it is, and one image gives the same bytes alone as in a batch. Raises ``FieldguideError`` for a strip
    so narrow that it would have more than ``PIXEL_LIMIT`` pixels where it covers ``size``.
    """
    height, width = (size, size) if isinstance(size, int) else size
    h, w = images.shape[2:]
    if (h, w) == (height, width):
        return images
    ratio = max(height / h, width / w)
    covering = max(height, round(h * ratio)), max(width, round(w * ratio))
    if covering[0] * covering[1] > PIXEL_LIMIT:
        raise FieldguideError(f"{h}×{w} pixels cannot be scaled to cover {height}×{width}; cut it, or leave it out")
    top, left = (covering[0] - height) // 2, (covering[1] - width) // 2
    result = images.new_empty(len(images), images.shape[1], height, width)
    step = max(1, _CHUNK_BYTES // (images.shape[1] * max(h * w, covering[0] * covering[1])))
    for start in range(0, len(images), step):
        scaled = F.interpolate(images[start : start + step], covering, mode="bilinear", antialias=True)
        result[start : start + step] = scaled[:, :, top : top + height, left : left + width]
    return result


ChooseSize = Callable[[set[tuple[int, int]]], tuple[int, int]]
"""From the (height, width) that occur to the one that all images get."""


def natural_size(sizes: set[tuple[int, int]], image_size: int | tuple[int, int] | None = None) -> tuple[int, int]:
    """The one (height, width) for images of these sizes.

    ``None`` keeps a size that all share; images of several sizes become squares of their median shorter side, at
    most 224. An int is the side of a square. A range ``(smallest, largest)`` keeps a square size inside it, and
    otherwise takes the nearest side that lies in it.
    """
    if isinstance(image_size, int):
        if image_size < 1:
            raise FieldguideError(f"image_size is {image_size}; choose at least 1")
        return image_size, image_size
    if len(sizes) == 1:
        height, width = next(iter(sizes))
    else:
        shorter = sorted(min(size) for size in sizes)
        height = width = min(224, shorter[len(shorter) // 2])
    if image_size is None:
        return height, width
    side = min(max(min(height, width), image_size[0]), image_size[1])
    return side, side


def convert_channels(images: UInt8[Tensor, "n c h w"], channels: int) -> UInt8[Tensor, "n c2 h w"]:
    """Grey to colour by repetition, colour to grey by ITU-R 601 luma in Pillow's integer arithmetic."""
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1 and channels == 3:
        return images.expand(-1, 3, -1, -1).contiguous()
    if images.shape[1] == 3 and channels == 1:
        red, green, blue = images.to(torch.int32).unbind(1)
        return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).to(torch.uint8).unsqueeze(1)
    raise FieldguideError(f"images with {images.shape[1]} channels cannot be converted to {channels}; use 1 or 3")
