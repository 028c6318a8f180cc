"""Image files of every awkward kind, read alike in training and prediction, in memory and on demand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fieldguide.data import Feed, ImageData, open_images
from fieldguide.data.decode import read_header, read_image
from fieldguide.data.files import read_listing
from fieldguide.data.folder import list_folder
from fieldguide.data.images import assemble
from fieldguide.data.pixels import InMemory, OnDisk
from fieldguide.errors import FieldguideError
from fieldguide.train.recipe import AugmentRecipe

RANDOM = np.random.default_rng(7)
COLOUR = RANDOM.integers(0, 256, (6, 9, 3), np.uint8)
GREY = RANDOM.integers(0, 256, (6, 9), np.uint8)


def read(path: Path, channels: int, size: tuple[int, int] = (6, 9)) -> np.ndarray:
    image = read_image(path, channels, size)
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (channels, *size))
    return image.numpy().transpose(1, 2, 0)


def test_lossless_files_come_back_as_written(tmp_path: Path) -> None:
    for suffix in ("png", "bmp", "tif", "ppm"):
        Image.fromarray(COLOUR).save(tmp_path / f"colour.{suffix}")
        assert np.array_equal(read(tmp_path / f"colour.{suffix}", 3), COLOUR)
        assert read_header(tmp_path / f"colour.{suffix}").channels == 3
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    assert np.array_equal(read(tmp_path / "grey.png", 1)[..., 0], GREY)
    assert np.array_equal(read(tmp_path / "grey.png", 3), GREY[..., None].repeat(3, 2))
    assert read_header(tmp_path / "grey.png").channels == 1


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)), (8, lambda a: np.rot90(a, 1)),
     (2, lambda a: a[:, ::-1]), (5, lambda a: a.transpose(1, 0, 2))],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_exif_orientation_is_applied(
    tmp_path: Path, orientation: int, upright: Callable[[np.ndarray], np.ndarray], suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOUR).save(tmp_path / f"x.{suffix}", exif=exif, lossless=True)
    want = upright(COLOUR)
    assert np.array_equal(read(tmp_path / f"x.{suffix}", 3, want.shape[:2]), want)
    assert read_header(tmp_path / f"x.{suffix}").size == want.shape[:2]


def test_sixteen_bit_grey_is_scaled_not_cut(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 54).round().astype(np.uint16).reshape(6, 9)
    for suffix in ("png", "tif"):
        Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
        want = np.rint(values / 257).astype(int)
        assert np.abs(read(tmp_path / f"deep.{suffix}", 1)[..., 0].astype(int) - want).max() == 0
        assert read_header(tmp_path / f"deep.{suffix}").channels == 1


def test_palettes_and_transparency(tmp_path: Path) -> None:
    flat = Image.fromarray(COLOUR).quantize(16)
    flat.save(tmp_path / "palette.png")
    assert np.array_equal(read(tmp_path / "palette.png", 3), np.array(flat.convert("RGB")))
    clear = np.dstack([COLOUR, np.full((6, 9), 255, np.uint8)])
    clear[:3, :, 3] = 0
    Image.fromarray(clear).save(tmp_path / "clear.png")
    got = read(tmp_path / "clear.png", 3)
    assert (got[:3] == 255).all(), "what is invisible is white, whatever colour hides there"
    assert np.array_equal(got[3:], COLOUR[3:])
    Image.fromarray(np.dstack([GREY, clear[..., 3]]), "LA").save(tmp_path / "veiled.png")
    assert read_header(tmp_path / "veiled.png").channels == 1
    assert np.array_equal(read(tmp_path / "veiled.png", 1)[3:, :, 0], GREY[3:])
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "print.tif")
    assert np.array_equal(read(tmp_path / "print.tif", 3), COLOUR)
    Image.fromarray(GREY > 127).save(tmp_path / "bits.png")
    assert np.array_equal(read(tmp_path / "bits.png", 1)[..., 0], np.where(GREY > 127, 255, 0))


def damage(folder: Path) -> list[str]:
    """Adds unreadable files, and says what the error must contain."""
    whole = (folder / "cats" / "00.png").read_bytes()
    (folder / "cats" / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cats" / "text.jpg").write_text("not a picture")
    (folder / "dogs" / "empty.gif").write_bytes(b"")
    Image.fromarray(np.zeros((10, 8), np.float32)).save(folder / "dogs" / "float.tif")
    return [
        "cats/half.png (",
        "truncated",
        "cats/text.jpg (not an image)",
        "dogs/empty.gif (not an image)",
        "dogs/float.tif (floating",
    ]


def test_every_bad_file_is_listed_in_one_line(make_folder: Callable[..., Path]) -> None:
    folder = make_folder({"cats": 6, "dogs": 6})
    wanted = damage(folder)
    with pytest.raises(FieldguideError) as error:
        open_images(folder, channels=3)
    message = str(error.value)
    assert message.startswith(f"4 of 16 images of {folder} cannot be read: ")
    assert all(part in message for part in wanted), message
    assert "\n" not in message
    for i in range(20):
        (folder / "dogs" / f"bad{i}.png").write_bytes(b"?")
    with pytest.raises(FieldguideError, match=r"24 of 36 .* and 14 more; mend or remove them"):
        open_images(folder, channels=3)


def test_bad_files_can_be_left_out(make_folder: Callable[..., Path]) -> None:
    folder = make_folder({"cats": 6, "dogs": 6})
    good = open_images(folder)
    damage(folder)
    data = open_images(folder, channels=3, on_bad_file="skip")
    assert set(data.skipped) == {"cats/half.png", "cats/text.jpg", "dogs/empty.gif", "dogs/float.tif"}
    assert (data.train.names, data.fingerprint, data.mean) == (good.train.names, good.fingerprint, good.mean)
    with pytest.raises(FieldguideError, match=r"cannot read image .*half.png': .*truncated"):
        read_image(folder / "cats" / "half.png", 3, (10, 8))


def test_a_folder_of_bad_files_only_is_refused_even_when_skipping(make_folder: Callable[..., Path]) -> None:
    folder = make_folder({"cats": 2})
    for file in (folder / "cats").iterdir():
        file.write_bytes(b"?")
    with pytest.raises(FieldguideError, match="2 of 2 images"):
        open_images(folder, on_bad_file="skip")


def test_mixed_channels_name_one_of_each(make_folder: Callable[..., Path]) -> None:
    folder = make_folder({"cats": 4})
    make_folder({"dogs": 4}, mode="L")
    with pytest.raises(
        FieldguideError, match=r"mixes grey \(dogs/\d+.png\) and colour \(cats/\d+.png\).*channels=1 or channels=3"
    ):
        open_images(folder)
    for channels in (1, 3):
        assert open_images(folder, channels=channels).channels == channels


@pytest.mark.parametrize("image_size", [None, 6, 16])
def test_on_demand_equals_in_memory(make_folder: Callable[..., Path], image_size: int | None) -> None:
    folder = make_folder({"train/cats": 9, "train/dogs": 8, "test/cats": 3, "test/dogs": 2})
    make_folder({"train/cats": 3}, size=(12, 15))  # overwrites three: two sizes in one set

    def choose(sizes: set[tuple[int, int]]) -> tuple[int, int]:
        assert sizes == {(10, 8), (12, 15)}
        return (image_size, image_size) if image_size else (8, 8)

    kept, lazy = (
        assemble(read_listing(list_folder(folder), choose_size=choose, memory_limit=limit)) for limit in (1 << 30, 0)
    )
    assert isinstance(kept.train.pixels, InMemory)
    assert isinstance(lazy.train.pixels, OnDisk)
    assert (kept.mean, kept.std, kept.fingerprint) == (lazy.mean, lazy.std, lazy.fingerprint)
    augment = AugmentRecipe(shift=0.1, flip=True, erase=0.3, mixup=0.2)
    for part in ("train", "val", "test"):
        one, other = (getattr(data, part) for data in (kept, lazy))
        feeds = [Feed(s, 2, seed=1, mean=kept.mean, std=kept.std, augment=augment) for s in (one, other)]
        for x, y in zip(*(feed.batches(3) for feed in feeds), strict=True):
            assert torch.equal(x[0], y[0])
            assert torch.equal(x[1], y[1])


def test_prediction_reads_what_training_saw(make_folder: Callable[..., Path]) -> None:
    folder = make_folder({"cats": 5, "dogs": 5}, size=(30, 41))
    data = open_images(folder, image_size=24)
    for split in (data.train, data.val, data.test):
        images, _ = split.batch(torch.arange(len(split)))
        for name, image in zip(split.names, images, strict=True):
            assert torch.equal(read_image(folder / name, data.channels, data.size), image)


def test_arrays_and_files_are_resized_alike(tmp_path: Path) -> None:
    """A digit saved as a file is predicted as the digit in memory was trained."""
    raw, trained = open_images("digits"), open_images("digits", image_size=32)
    images, _ = raw.test.batch(torch.arange(5))
    wanted, _ = trained.test.batch(torch.arange(5))
    for i, image in enumerate(images):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{i}.png")
        assert torch.equal(read_image(tmp_path / f"{i}.png", 1, (32, 32)), wanted[i])


def test_colour_arrays_and_files_are_resized_alike(tmp_path: Path) -> None:
    images = RANDOM.integers(0, 256, (8, 17, 23, 3), np.uint8)
    data = ImageData.from_arrays(
        images, np.arange(8) % 2, val=(images, np.arange(8) % 2), test=(images, np.arange(8) % 2), image_size=11
    )
    for i, trained in enumerate(data.test.batch(torch.arange(8))[0]):
        Image.fromarray(images[i]).save(tmp_path / f"{i}.png")
        assert torch.equal(read_image(tmp_path / f"{i}.png", 3, (11, 11)), trained)


def test_statistics_are_those_of_the_training_part_only(make_folder: Callable[..., Path]) -> None:
    folder = make_folder({"train/a": 6, "train/b": 6, "test/a": 2, "test/b": 2})
    for file in (folder / "test").rglob("*.png"):
        Image.fromarray(np.zeros((10, 8, 3), np.uint8)).save(file)
    data = open_images(folder)
    images, _ = data.train.batch(torch.arange(len(data.train)))
    pixels = images.double().transpose(0, 1).flatten(1) / 255
    assert data.mean == pytest.approx(pixels.mean(1).tolist())
    assert data.std == pytest.approx(pixels.std(1, correction=0).tolist())
