"""The one door: what it takes, what it refuses, and what it says of the data."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fieldguide.data import open_images, open_split
from fieldguide.errors import FieldguideError


def test_digits_are_scikit_learns() -> None:
    data, scans = open_images("digits"), load_digits()
    assert (data.name, data.channels, data.size) == ("digits", 1, (8, 8))
    assert data.classes == tuple("0123456789")
    for split in (data.train, data.val, data.test):
        images, labels = split.batch(torch.arange(len(split)))
        assert images.dtype == torch.uint8
        index = [int(name.split()[1]) for name in split.names]
        assert np.abs(images[:, 0].numpy() / 255 * 16 - scans.images[index]).max() < 0.04
        assert np.array_equal(labels.numpy(), scans.target[index])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("digts", r"no data source 'digts'; did you mean 'digits'\? accepted: digits, a folder"),
        ("pet", r"no data source 'pet'; did you mean 'pets'\?"),
        ("nothing-like-it", "no data source 'nothing-like-it'; accepted: "),
        ("notes.txt", r"notes.txt is a \.txt; accepted: "),
        ("nowhere/at/all.csv", "no data source 'nowhere/at/all.csv'; accepted: "),
    ],
)
def test_unknown_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FieldguideError, match=reason) as error:
        open_images(source)
    assert "\n" not in str(error.value)


def test_options_that_cannot_be(make_folder: Callable[..., Path]) -> None:
    for source in ("digits", make_folder({"a": 4, "b": 4})):
        with pytest.raises(FieldguideError, match="channels is 2; choose 1"):
            open_images(source, channels=2)
        with pytest.raises(FieldguideError, match="image_size is 0; choose at least 1"):
            open_images(source, image_size=0)


def test_file_names_need_not_be_text(make_folder: Callable[..., Path]) -> None:
    folder = make_folder({"a": 5, "b": 5})
    (folder / "a" / "00.png").rename(folder / "a" / os.fsdecode(b"caf\xe9.png"))
    assert len(open_images(folder).fingerprint) == 64


def test_a_folder_called_digits_is_reached_by_its_path(make_folder: Callable[..., Path]) -> None:
    folder = make_folder({"a": 5, "b": 5}, root="digits")
    assert open_images(folder).classes == ("a", "b")


def test_the_fingerprint_follows_the_content(make_folder: Callable[..., Path]) -> None:
    folder = make_folder({"a": 5, "b": 5})
    first = open_images(folder).fingerprint
    assert len(first) == 64
    assert open_images(folder, image_size=20, channels=1, split_seed=3).fingerprint == first, (
        "preparation is not content"
    )
    (folder / "a" / "00.png").rename(folder / "a" / "99.png")
    renamed = open_images(folder).fingerprint
    (folder / "a" / "99.png").write_bytes((folder / "b" / "00.png").read_bytes())
    rewritten = open_images(folder).fingerprint
    (folder / "b").rename(folder / "c")
    assert len({first, renamed, rewritten, open_images(folder).fingerprint}) == 4


def test_array_fingerprints_see_pixels_and_labels(tmp_path: Path) -> None:
    images, labels = np.zeros((20, 4, 4), np.uint8), np.arange(20) % 2
    prints = set()
    for change in ("none", "pixel", "label"):
        images[3, 2, 1] = 1 if change == "pixel" else 0
        labels[3] = 0 if change == "label" else 1
        np.savez(tmp_path / "d.npz", x=images, y=labels)
        prints.add(open_images(tmp_path / "d.npz").fingerprint)
    assert len(prints) == 3


def test_the_split_does_not_depend_on_size_channels_or_call() -> None:
    first, again = open_images("digits"), open_images("digits", image_size=16, channels=3)
    assert first.test.names == again.test.names
    assert first.test.names != open_images("digits", split_seed=1).test.names
    assert (again.channels, again.size, len(again.mean)) == (3, (16, 16), 3)


def test_classes_are_sorted_as_numbers_when_they_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((60, 4, 4), np.uint8), y=np.arange(60) % 12)
    data = open_images(tmp_path / "d.npz")
    assert data.classes == tuple(map(str, range(12)))
    assert data.std == (1.0,), "a constant channel is not divided by zero"


def test_evaluation_takes_the_models_classes(make_folder: Callable[..., Path]) -> None:
    folder = make_folder({"dog": 3})
    split = open_split(folder, classes=("ant", "dog"), image_size=(9, 11), channels=1)
    assert split.labels.tolist() == [1, 1, 1]
    assert split.pixels.shape == (1, 9, 11)
    with pytest.raises(FieldguideError, match=r"label 'dog' .*not among the 2 classes"):
        open_split(folder, classes=("ant", "cow"), image_size=(9, 11), channels=1)
    divided = make_folder({"train/ant": 2, "val/ant": 3, "test/ant": 4}, root="divided")
    assert len(open_split(divided, classes=("ant", "dog"), image_size=(9, 11), channels=3)) == 4


def test_heavy_libraries_are_not_imported_early() -> None:
    heavy = "('sklearn', 'PIL', 'torchvision', 'scipy')"
    code = f"import sys, fieldguide.data; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
