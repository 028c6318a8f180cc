"""Arrays from ``.npz`` files and from Python."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldguide.data import ImageData, open_images
from fieldguide.data.arrays import LAYOUTS, as_labels, as_pixels, read_npz
from fieldguide.errors import DamagedFile, FieldguideError

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 5, 6), np.uint8)
LABELS = np.arange(40) % 4


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "-".join(layout["train"]))
def test_every_documented_layout(tmp_path: Path, layout: dict[str, tuple[str, str]]) -> None:
    arrays = {}
    for images, labels in layout.values():
        arrays |= {images: IMAGES, labels: LABELS}
    np.savez(tmp_path / "d.npz", **arrays)
    data = open_images(tmp_path / "d.npz")
    assert set(read_npz(tmp_path / "d.npz").parts) == set(layout)
    assert len(data.train) == (40 if "val" in layout else 28)
    assert (data.name, data.size, data.classes) == ("d", (5, 6), ("0", "1", "2", "3"))


def test_class_names_are_kept_in_their_order(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "d.npz", x=IMAGES, y=LABELS[:, None], classes=np.array(["w", "x", "b", "a"]))
    data = open_images(tmp_path / "d.npz")
    assert data.classes == ("w", "x", "b", "a")
    for name, label in zip(data.train.names, data.train.labels.tolist(), strict=True):
        assert LABELS[int(name.split()[1])] == label
    np.savez(tmp_path / "d.npz", x=IMAGES, y=LABELS, classes=np.array(["w", "x"]))
    with pytest.raises(FieldguideError, match="image 2 has a label outside the 2 classes"):
        open_images(tmp_path / "d.npz")


def test_text_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=IMAGES, y=np.array(["pear", "fig"])[LABELS % 2])
    assert open_images(tmp_path / "d.npz").classes == ("fig", "pear")


@pytest.mark.parametrize(
    ("shape", "got"),
    [
        ((2, 5, 6), (2, 1, 5, 6)),
        ((2, 5, 6, 3), (2, 3, 5, 6)),
        ((2, 3, 5, 6), (2, 3, 5, 6)),
        ((2, 3, 4, 4), (2, 3, 4, 4)),
    ],
)
def test_shapes(shape: tuple[int, ...], got: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    pixels = as_pixels(array, "x")
    assert tuple(pixels.shape) == got
    assert pixels.sum() == array.sum(dtype=np.int64)


def test_channels_last_is_moved_not_reshaped() -> None:
    array = np.zeros((1, 5, 6, 3), np.uint8)
    array[..., 2] = 9
    assert torch.equal(as_pixels(array, "x")[0, 2], torch.full((5, 6), 9, dtype=torch.uint8))


def test_numbers_become_bytes() -> None:
    exact = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    for same in (exact.astype(np.int64), exact / 255, (exact / 255).astype(np.float32), torch.from_numpy(exact)):
        assert np.array_equal(as_pixels(same, "x")[:, 0].numpy(), exact)
    assert as_pixels(exact > 3, "x").unique().tolist() == [0, 255]


def with_value(value: float) -> np.ndarray:
    array = np.zeros((5, 4, 4), np.float32)
    array[3, 1, 2] = value
    return array


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (with_value(np.nan), "image 3 has a pixel that is not finite"),
        (with_value(np.inf), "image 3 has a pixel that is not finite"),
        (with_value(1.5), "image 3 has a value outside 0–1"),
        (with_value(-0.1), "image 3 has a value outside 0–1"),
        (with_value(300).astype(int), "image 3 has a value outside 0–255"),
        (np.zeros((3, 4)), r"has shape \(3, 4\)"),
        (np.zeros((3, 9, 9, 9), np.uint8), "no axis of 1 to 4 channels"),
        (np.array([["a"]] * 3)[..., None], "images are numbers"),
    ],
)
def test_images_that_are_none(images: np.ndarray, reason: str) -> None:
    with pytest.raises(FieldguideError, match=f"(?s)^here.*{reason}"):
        as_pixels(images, "here")


def test_labels_that_are_none() -> None:
    assert as_labels([1.0, 2.0], "y").dtype == np.int64
    for wrong in ([0.5, 1.0], [np.nan, 1.0], np.zeros((3, 2), int), np.array([object()])):
        with pytest.raises(FieldguideError, match="expected \\(n,\\) whole numbers or text"):
            as_labels(wrong, "y")


def test_missing_arrays_and_foreign_files(tmp_path: Path) -> None:
    file = tmp_path / "d.npz"
    np.savez(file, pictures=IMAGES, y=LABELS)
    with pytest.raises(FieldguideError, match="holds the arrays pictures, y; accepted: images, labels; x, y;"):
        open_images(file)
    np.savez(file, x=IMAGES, y=LABELS[:3])
    with pytest.raises(FieldguideError, match="x: 40 images but 3 labels"):
        open_images(file)
    np.savez(file, x=IMAGES[:0], y=LABELS[:0])
    with pytest.raises(FieldguideError, match="no images"):
        open_images(file)
    np.savez(file, x=IMAGES, y=LABELS)
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not an archive", whole[:200] + b"\xff" * 50 + whole[250:]):
        file.write_bytes(content)
        with pytest.raises(DamagedFile, match=r"d\.npz cannot be read as \.npz arrays"):
            open_images(file)


class Trap:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self) -> tuple:
        return open, ("trapped", "w")


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("object.npz", x=np.array([Trap()], dtype=object), y=np.array([0]))
    Path("pickled.npz").write_bytes(pickle.dumps(Trap()))
    for file in ("object.npz", "pickled.npz"):
        with pytest.raises(DamagedFile):
            open_images(file)
    assert not Path("trapped").exists()


def test_from_arrays_takes_tensors_and_parts() -> None:
    images, labels = torch.from_numpy(IMAGES), torch.from_numpy(LABELS)
    data = ImageData.from_arrays(images, labels, test=(images[:8], labels[:8]), classes=list("abcd"), image_size=8)
    assert (len(data.train), len(data.val), len(data.test)) == (36, 4, 8)
    assert (data.classes, data.size) == (("a", "b", "c", "d"), (8, 8))
    with pytest.raises(FieldguideError, match="test: image 1 has a label outside the 4 classes"):
        ImageData.from_arrays(images, labels, test=(images[:2], torch.tensor([0, 9])), classes=list("abcd"))
    with pytest.raises(FieldguideError, match=r"train has 1 channel.* but test has 3; choose channels=1 or channels=3"):
        ImageData.from_arrays(images, labels, test=(images[:, None].repeat(1, 3, 1, 1), labels))
