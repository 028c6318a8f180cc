"""One rule for sizes and channels, against Pillow's and to the bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fieldguide.data import resize
from fieldguide.data.resize import convert_channels, natural_size
from fieldguide.errors import FieldguideError

sides = st.integers(1, 40)


def smooth(h: int, w: int, c: int = 1) -> torch.Tensor:
    """An image whose resized values do not hang on one rounded weight."""
    y, x = torch.meshgrid(torch.linspace(0, 6, h), torch.linspace(0, 6, w), indexing="ij")
    return (127 + 120 * torch.stack([(y + k).sin() * (x - k).cos() for k in range(c)])).byte()[None]


@given(sides, sides, sides, sides, st.sampled_from([1, 3]))
def test_one_image_alone_equals_the_same_in_a_batch(h: int, w: int, height: int, width: int, channels: int) -> None:
    images = torch.randint(0, 256, (5, channels, h, w), dtype=torch.uint8)
    together = resize(images, (height, width))
    assert together.shape == (5, channels, height, width)
    assert torch.equal(together, torch.cat([resize(image[None], (height, width)) for image in images]))


@given(st.integers(8, 60), st.integers(8, 60), st.integers(4, 40))
def test_squares_are_the_shorter_side_and_the_centre_as_pillow_resizes(h: int, w: int, side: int) -> None:
    image = smooth(h, w)
    ratio = side / min(h, w)
    covering = max(side, round(h * ratio)), max(side, round(w * ratio))
    scaled = Image.fromarray(image[0, 0].numpy()).resize(covering[::-1], Image.Resampling.BILINEAR)
    top, left = (covering[0] - side) // 2, (covering[1] - side) // 2
    want = np.asarray(scaled, int)[top : top + side, left : left + side]
    assert np.abs(resize(image, side)[0, 0].numpy().astype(int) - want).max() <= 1


def test_images_of_the_size_are_left_alone() -> None:
    images = smooth(9, 7)
    assert resize(images, (9, 7)) is images


def test_the_crop_is_central() -> None:
    image = torch.zeros(1, 1, 4, 8, dtype=torch.uint8)
    image[..., 2:6] = 255
    assert (resize(image, 4) == 255).all()


def test_grey_is_pillows_luma_and_colour_repeats_grey() -> None:
    colour = torch.randint(0, 256, (6, 3, 20, 20), dtype=torch.uint8)
    for image, grey in zip(colour, convert_channels(colour, 1), strict=True):
        want = np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"))
        assert np.array_equal(grey[0].numpy(), want)
    assert torch.equal(convert_channels(colour[:, :1], 3), colour[:, :1].repeat(1, 3, 1, 1))
    with pytest.raises(FieldguideError, match="2 channels cannot be converted to 3"):
        convert_channels(colour[:, :2], 3)


@pytest.mark.parametrize(
    ("sizes", "wanted", "got"),
    [
        ({(28, 30)}, None, (28, 30)),
        ({(28, 30)}, 32, (32, 32)),
        ({(28, 28)}, (8, 32), (28, 28)),
        ({(28, 28)}, (32, 224), (32, 32)),
        ({(500, 375)}, (32, 224), (224, 224)),
        ({(10, 99), (20, 30), (50, 60)}, None, (20, 20)),
        ({(400, 500), (300, 900), (600, 600)}, None, (224, 224)),
    ],
)
def test_the_size_all_images_get(sizes: set, wanted: int | tuple[int, int] | None, got: tuple[int, int]) -> None:
    assert natural_size(sizes, wanted) == got
