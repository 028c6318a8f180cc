"""Folders of class folders, and what is wrong with them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fieldguide.data import open_images
from fieldguide.data.folder import list_folder
from fieldguide.errors import FieldguideError


def test_a_folder_per_class(make_folder: Callable[..., Path]) -> None:
    folder = make_folder({"dogs": 10, "cats/indoors": 6, "cats/outdoors": 4, ".git": 2})
    (folder / "cats" / "notes.txt").write_text("ignored")
    (folder / "dogs" / "._00.png").write_text("ignored")
    data = open_images(folder)
    assert data.classes == ("cats", "dogs")
    assert (len(data.train), len(data.val), len(data.test)) == (14, 2, 4)
    for split in (data.train, data.val, data.test):
        for name, label in zip(split.names, split.labels.tolist(), strict=True):
            assert name.startswith(data.classes[label])


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_parts_of_the_folder_are_kept(make_folder: Callable[..., Path], val: str) -> None:
    counts = {"train/a": 6, "train/b": 6, f"{val}/a": 2, f"{val}/b": 3, "test/b": 1}
    data = open_images(make_folder(counts))
    assert (len(data.train), len(data.val), len(data.test)) == (12, 5, 1)
    assert all(name.startswith(f"{val}/") for name in data.val.names)


def test_missing_parts_are_split_off(make_folder: Callable[..., Path]) -> None:
    folder = make_folder({"train/a": 20, "train/b": 20})
    data = open_images(folder)
    assert (len(data.train), len(data.val), len(data.test)) == (29, 3, 8)


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({}, "has no class folders.*it is empty"),
        ({".": 3}, "has no class folders .it holds 3 files: .png.; put each class's images into a sub-folder"),
        ({"a": 5, "b": 0}, "class folder .*b has no images .it is empty."),
        ({"a": 5}, "single class .a."),
        ({"a": 5, "b": 1}, "class 'b' has 1 sample left to split"),
        ({"a": 5, "b": 2}, "class 'b' has 1 sample left to split"),
        ({"train/a": 5, "train/b": 5, "extra/a": 2}, r"holds train/ but also extra/"),
        ({"val/a": 5, "test/b": 5}, r"holds test, val but no train/"),
        ({"train/cat": 5, "train/dog": 5, "test/cats": 2}, r"label 'cats' .*test/cats/00.png.* did you mean 'cat'"),
        ({"train/a": 5, "train/b": 5, "test": 2}, r"test has no class folders"),
    ],
)
def test_what_is_wrong_is_said(make_folder: Callable[..., Path], counts: dict[str, int], reason: str) -> None:
    make_folder({"unused": 0})
    folder = make_folder(counts, root="other")
    folder.mkdir(exist_ok=True)
    with pytest.raises(FieldguideError, match=reason) as error:
        open_images(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value) or "class 'b'" in str(error.value) or "single" in str(error.value)


def test_listing_is_in_sorted_order(make_folder: Callable[..., Path]) -> None:
    files = [row.file for row in list_folder(make_folder({"b": 3, "a": 12})).rows]
    assert files == sorted(files)
