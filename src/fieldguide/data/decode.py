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

from fieldguide.bounded import open_plain, read_plain
from fieldguide.data.resize import PIXEL_LIMIT, resize
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Tensor, UInt8

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Pillow's names of these, whatever a file is called; others, such as EPS, would start programs."""
_FILE_LIMIT = 8 * PIXEL_LIMIT

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
        if {width, height} != {*image.size}:
            raise BadImage(f"it says {width}×{height} in one place and {image.size} in another")
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
    try:
        return resize(planes, size)[0]
    except FieldguideError as error:
        raise BadImage(str(error)) from error


def read_image(path: str | Path, channels: int, size: tuple[int, int]) -> UInt8[Tensor, "c h w"]:
    """Exactly what training saw of an image file: ``decode``, with an error that names the file."""
    try:
        return decode(read_bytes(path), channels, size)
    except BadImage as error:
        raise FieldguideError(f"cannot read image {str(path)!r}: {error}") from error


def read_bytes(path: str | Path) -> bytes:
    with _refused():
        return read_plain(path, _FILE_LIMIT)


@contextmanager
def _refused() -> Iterator[None]:
    """Whatever goes wrong with a file is a ``BadImage``."""
    try:
        yield
    except BadImage:
        raise
    except FileNotFoundError:
        raise BadImage("no such file") from None
    except OSError as error:
        raise BadImage(error.strerror or " ".join(str(error).split())) from error
    except Exception as error:  # Pillow's many decoders raise whatever their formats make them
        raise BadImage(" ".join(str(error).split()) or type(error).__name__) from error


@contextmanager
def _opened(content: str | Path | BytesIO) -> "Iterator[Image]":
    """An image of a known format and a size that can be decoded, by its header alone."""
    from PIL import Image, UnidentifiedImageError

    with _refused(), content if isinstance(content, BytesIO) else open_plain(content) as file:
        try:
            image = Image.open(file, formats=_FORMATS)
        except UnidentifiedImageError:
            raise BadImage("not an image") from None
        except Image.DecompressionBombError:  # far above our limit, which is lower
            raise BadImage(f"it has more than {PIXEL_LIMIT:,} pixels") from None
        with image:
            if image.width * image.height > PIXEL_LIMIT:
                raise BadImage(f"it has {image.width}×{image.height} pixels, more than {PIXEL_LIMIT:,}")
            yield image


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
