"""The picture of a mask shows the mask."""

import numpy as np
import pytest
from matplotlib.image import imread

from fieldguide.blocks.masks import Causal, Full, Global, Mask, Strided, Window
from fieldguide.errors import FieldguideError
from fieldguide.report.mask_picture import mask_png, mask_text

INK = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}


def read(picture: str) -> np.ndarray:
    lines = [line[1:-1] for line in picture.splitlines() if line.startswith("│")]
    return np.array([[INK[cell][half] for cell in line] for line in lines for half in (0, 1)], bool)


@pytest.mark.parametrize("mask", [Full(), Causal(), Causal() & Window(3) | Global([1]), Strided(4)])
@pytest.mark.parametrize("n", [1, 7, 12])
def test_each_pair_is_one_half_cell(mask: Mask, n: int):
    assert (read(mask_text(mask, n))[:n] == mask.dense(n)[0, 0].numpy()).all()


def test_a_long_sequence_fits_and_thin_lines_stay():
    text = mask_text(Window(1), 1000, columns=50)
    assert max(map(len, text.splitlines()[1:])) <= 62
    assert "20×20 pairs" in text
    assert (read(text) == np.eye(50, dtype=bool)).all()


def test_the_caption_counts():
    assert mask_text(Causal(), 4).startswith("Causal(): 62.5% of 4 × 4 pairs visible")


def test_png_shows_the_mask(tmp_path):
    causal, full = (imread(mask_png(mask, tmp_path / "mask.png", 32)) for mask in (Causal(), Full()))
    blue = (full[..., 0] < 0.5) & (full[..., 2] > 0.5)
    assert blue.mean() > 0.4
    same = (causal[..., 0] < 0.5) & blue
    assert same.sum() / blue.sum() == pytest.approx(Causal().density(32), abs=0.02)


@pytest.mark.parametrize("n", [0, 5000])
def test_sizes_that_make_no_picture_are_refused(n):
    with pytest.raises(FieldguideError, match="1 to 4096 tokens"):
        mask_text(Causal(), n)
