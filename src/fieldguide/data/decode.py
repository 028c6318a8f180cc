"""One image file to one uint8 tensor: the same bytes in training and in prediction.

Legend: c channels, h height, w width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from fieldguide.data.resize import resize
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Tensor, UInt8

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")

_GREY_8 = ("1", "L", "LA", "La")
_GREY_16 = ("I", "I;16", "I;16B", "I;16L")
_WIDTH, _HEIGHT, _ORIENTATION = 0x0100, 0x0101, 0x0112
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""


class BadImage(FieldguideError):
    """An image file that cannot be read; the message is the reason alone, without the file's name."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are decoded."""

    channels: int
    size: tuple[int, int]
    """(height, width) once upright."""


def read_header(path: str | Path) -> Header:
    """Channels and size of an image file; raises ``BadImage``."""
    with _opened(path) as image:
        # Asking a PNG for EXIF data it does not have would decode the whole image.
        exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
        # Whether a TIFF's size is already turned differs between versions of Pillow; its tags are as written.
        width, height = (exif[_WIDTH], exif[_HEIGHT]) if image.format == "TIFF" else image.size
        turned = exif.get(_ORIENTATION) in _TURNED
        return Header(1 if image.mode in _GREY_8 + _GREY_16 else 3, (width, height) if turned else (height, width))


def decode(content: bytes, channels: int, size: tuple[int, int]) -> UInt8[Tensor, "c h w"]:
    """The pixels of an image file's bytes as uint8, upright, with these channels and this (height, width).

    EXIF orientation is applied; 16-bit grey is scaled to 8 bits; transparent images are laid on white; colour becomes
    grey by ITU-R 601 luma; of an animation the first frame counts. The size follows ``fieldguide.data.resize``.
    Raises ``BadImage``.
    """
    from PIL.ImageOps import exif_transpose

    with _opened(BytesIO(content)) as image:
        mode = "L" if channels == 1 else "RGB"
        pixels = np.array(_eight_bit(exif_transpose(image)).convert(mode))  # a copy that torch may own
    planes = torch.from_numpy(pixels.reshape(1, *pixels.shape[:2], channels)).permute(0, 3, 1, 2).contiguous()
    return resize(planes, size)[0]


def read_image(path: str | Path, channels: int, size: tuple[int, int]) -> UInt8[Tensor, "c h w"]:
    """Exactly what training saw of an image file: ``decode``, with an error that names the file."""
    try:
        return decode(read_bytes(path), channels, size)
    except BadImage as error:
        raise FieldguideError(f"cannot read image {str(path)!r}: {error}") from error


def read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise BadImage("no such file") from None
    except OSError as error:
        raise BadImage(error.strerror or str(error)) from error


@contextmanager
def _opened(content: str | Path | BytesIO) -> "Iterator[Image]":
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(content) as image:
            yield image
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage("not an image") from None
    except FileNotFoundError:
        raise BadImage("no such file") from None
    except Exception as error:  # Pillow's many decoders raise whatever their formats make them
        raise BadImage(" ".join(str(error).split()) or type(error).__name__) from error


def _eight_bit(image: "Image") -> "Image":
    from PIL import Image

    if image.mode in _GREY_16:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65_535:
            raise BadImage(f"grey values from {values.min()} to {values.max()} are not 16-bit")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise BadImage("floating-point pixels have no known range; save as 8 or 16 bits")
    if image.has_transparency_data:
        upper = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", upper.size, "white"), upper)
    return image
