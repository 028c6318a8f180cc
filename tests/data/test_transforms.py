"""Each change against its definition, written out sample by sample in float64."""

from math import cos, pi, sin

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.data import normalize
from fieldguide.data.transforms import Affine, CutMix, EitherMix, Erase, Flip, Mixup, Shift, changes, mixing
from fieldguide.train.recipe import AugmentRecipe


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(b: int = 40, c: int = 1, h: int = 7, w: int = 9) -> torch.Tensor:
    return torch.randint(1, 256, (b, c, h, w), dtype=torch.uint8, generator=generator(99))


def sampled(image: np.ndarray, y: float, x: float) -> float:
    """Bilinear value at a point between pixel centres; zero outside."""
    y0, x0 = int(np.floor(y)), int(np.floor(x))
    total = 0.0
    for row in (y0, y0 + 1):
        for column in (x0, x0 + 1):
            if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * image[row, column]
    return total


def test_affine_is_rotation_scale_and_shift_in_pixels() -> None:
    batch, (share, degrees, scale) = images(b=6), (0.2, 40.0, 0.3)
    got = Affine(share, degrees, scale)(batch, generator(4))
    draw = (2 * torch.rand(4, 6, generator=generator(4)) - 1).double()
    _, _, h, w = batch.shape
    for i in range(6):
        zoom, angle = 1 + scale * float(draw[0, i]), float(draw[1, i]) * degrees * pi / 180
        right, down = float(draw[2, i]) * share * w, float(draw[3, i]) * share * h
        for row in range(h):
            for column in range(w):
                y, x = row - (h - 1) / 2, column - (w - 1) / 2
                source_x = (cos(angle) * x - sin(angle) * y) / zoom + right + (w - 1) / 2
                source_y = (sin(angle) * x + cos(angle) * y) / zoom + down + (h - 1) / 2
                want = sampled(batch[i, 0].double().numpy(), source_y, source_x)
                assert float(got[i, 0, row, column]) == pytest.approx(want, abs=0.01)


def test_affine_without_anything_to_do_is_the_identity() -> None:
    assert torch.allclose(Affine(0.0, 0.0, 0.0)(images(), generator()), images().float(), atol=1e-3)


def test_shift_moves_whole_pixels_and_fills_with_zeros() -> None:
    batch = images(b=300)
    moved = Shift(0.3)(batch, generator())
    down, right = round(0.3 * 7), round(0.3 * 9)
    padded = np.pad(batch.numpy(), ((0, 0), (0, 0), (down, down), (right, right)))
    seen = set()
    for before, after in zip(padded, moved.numpy(), strict=True):
        places = [
            (y, x)
            for y in range(2 * down + 1)
            for x in range(2 * right + 1)
            if np.array_equal(before[:, y : y + 7, x : x + 9], after)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == (2 * down + 1) * (2 * right + 1), "some displacements never occur"


def test_flip_mirrors_about_half() -> None:
    batch = images(b=1000)
    flipped = Flip()(batch, generator())
    kept = (flipped == batch).flatten(1).all(1)
    mirrored = (flipped == batch.flip(3)).flatten(1).all(1)
    assert (kept ^ mirrored).all()
    assert 430 < int(mirrored.sum()) < 570  # 4.4 standard deviations


def test_erase_blanks_one_rectangle_of_the_right_size() -> None:
    batch = torch.ones(2000, 2, 20, 16)
    blank = Erase(0.4)(batch, generator()) == 0
    assert torch.equal(blank[:, 0], blank[:, 1])
    hit = blank[:, 0].flatten(1).any(1)
    assert 0.35 < hit.float().mean() < 0.45
    for mask in blank[hit, 0]:
        rows, columns = mask.any(1), mask.any(0)
        assert int(mask.sum()) == int(rows.sum()) * int(columns.sum()), "not a rectangle"
        for line in (rows, columns):
            assert int(line.int().diff().abs().sum()) <= 2, "not connected"
    share = blank[hit, 0].flatten(1).float().mean(1)
    assert share.min() > 0.02 - 0.02
    assert share.max() < 0.4 + 0.05
    assert abs(float(share.mean()) - 0.21) < 0.03, "the mean of 2–40 %, less what sides longer than the image cut off"


def test_erase_reaches_every_pixel() -> None:
    blank = Erase(1.0)(torch.ones(3000, 1, 8, 8), generator()) == 0
    assert blank.float().mean(0).min() > 0.05


@given(st.floats(0.05, 2.0), st.integers(0, 100))
def test_mixup_mixes_images_as_it_mixes_labels(alpha: float, seed: int) -> None:
    labels = torch.arange(8)  # all different, so the targets tell who was mixed
    batch = torch.rand(8, 1, 3, 3, generator=generator(1))
    mixed, targets = Mixup(alpha, 8)(batch, labels, generator(seed))
    assert torch.allclose(targets.sum(1), torch.ones(8))
    assert (targets >= 0).all()
    assert torch.allclose(torch.einsum("bk,kchw->bchw", targets.double(), batch.double()).float(), mixed, atol=1e-5)


def test_mixup_draws_from_the_beta_distribution() -> None:
    labels = torch.arange(4000)
    _, targets = Mixup(0.4, 4000)(torch.zeros(4000, 1, 1, 1), labels, generator())
    own = targets.diagonal().double()
    assert float(own.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(own.var()) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)  # variance of Beta(α, α)


@given(st.floats(0.05, 2.0), st.integers(0, 100))
def test_cutmix_pastes_one_box_and_counts_its_pixels(alpha: float, seed: int) -> None:
    labels, b = torch.arange(8), 8
    batch = torch.arange(b).float()[:, None, None, None].expand(b, 2, 7, 9)  # every pixel tells whose it is
    mixed, targets = CutMix(alpha, 8)(batch, labels, generator(seed))
    for own, (image, shares) in enumerate(zip(mixed.long(), targets, strict=True)):
        assert torch.equal(image[0], image[1])
        counts = torch.bincount(image[0].flatten(), minlength=8) / 63
        assert torch.allclose(counts, shares, atol=1e-6)
        pasted = image[0] != own
        rows, columns = pasted.any(1), pasted.any(0)
        assert int(pasted.sum()) == int(rows.sum()) * int(columns.sum()), "not a rectangle"
        for line in (rows, columns):
            assert int(line.int().diff().abs().sum()) <= 2, "not connected"


def test_cutmix_boxes_have_the_area_that_the_paper_draws() -> None:
    """λ uniform for α = 1, the centre uniform, the box cut at the edges: its mean share by numbers drawn with NumPy."""
    side, n = 64, 4000
    _, targets = CutMix(1.0, n)(torch.zeros(n, 1, side, side), torch.arange(n), generator())
    draw = np.random.default_rng(0)
    half = np.sqrt(1 - draw.uniform(size=200_000)) / 2
    cut = [np.minimum(1, centre + half) - np.maximum(0, centre - half) for centre in draw.uniform(size=(2, len(half)))]
    assert float(targets.diagonal().mean()) == pytest.approx(1 - float((cut[0] * cut[1]).mean()), abs=0.01)


def test_cutmix_reaches_every_pixel() -> None:
    batch = torch.arange(3000).float()[:, None, None, None].expand(3000, 1, 8, 8)
    mixed, _ = CutMix(1.0, 3000)(batch, torch.arange(3000), generator())
    assert (mixed != batch).float().mean(0).min() > 0.1


def test_mixing_both_ways_takes_turns() -> None:
    assert mixing(AugmentRecipe(), 3) is None
    assert mixing(AugmentRecipe(mixup=0.2), 3) == Mixup(0.2, 3)
    assert mixing(AugmentRecipe(cutmix=1.0), 3) == CutMix(1.0, 3)
    both = mixing(AugmentRecipe(mixup=0.2, cutmix=1.0), 3)
    assert both == EitherMix((Mixup(0.2, 3), CutMix(1.0, 3)))
    batch, labels = torch.arange(3).float()[:, None, None, None].expand(3, 1, 9, 9), torch.arange(3)
    blended = [bool((both(batch, labels, generator(i))[0] % 1 != 0).any()) for i in range(200)]
    assert 60 < sum(blended) < 140


def test_normalize_is_the_formula_and_one_image_equals_many() -> None:
    batch, mean, std = images(c=3), torch.tensor([0.2, 0.5, 0.7]), torch.tensor([0.1, 0.3, 0.2])
    want = (batch.double() / 255 - mean.double()[:, None, None]) / std.double()[:, None, None]
    assert torch.allclose(normalize(batch, mean, std).double(), want, atol=1e-5)
    alone = torch.cat([normalize(batch[i : i + 1], mean, std) for i in range(len(batch))])
    assert torch.equal(alone, normalize(batch, mean, std))


def test_settings_switch_on_what_they_name() -> None:
    assert changes(AugmentRecipe()) == ((), ())
    assert changes(AugmentRecipe(shift=0.1, flip=True)) == ((Flip(), Shift(0.1)), ())
    assert changes(AugmentRecipe(shift=0.1, rotate=5.0)) == ((Affine(0.1, 5.0, 0.0),), ())
    assert changes(AugmentRecipe(erase=0.3)) == ((), (Erase(0.3),))
