"""IDX files written here byte by byte, whole and damaged."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fieldguide.data import open_images
from fieldguide.data.idx import read_idx, read_idx_folder
from fieldguide.errors import DamagedFile, FieldguideError


def idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write(folder: Path, stem: str, count: int, *, end: str = "", mark: str = "-") -> None:
    random = np.random.default_rng(len(stem))
    folder.mkdir(exist_ok=True)
    for kind, array in (
        (f"images{mark}idx3", random.integers(0, 256, (count, 5, 6), np.uint8)),
        (f"labels{mark}idx1", np.arange(count).astype(np.uint8) % 3),
    ):
        content = idx(array)
        (folder / f"{stem}-{kind}-ubyte{end}").write_bytes(gzip.compress(content) if end else content)


@given(arrays(np.uint8, array_shapes(min_dims=1, max_dims=3, max_side=6)), st.booleans())
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, zipped: bool) -> None:
    file = tmp_path_factory.mktemp("idx") / "file"
    file.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    assert np.array_equal(read_idx(file, array.ndim), array)


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("mark", ["-", "."])
def test_both_parts_are_kept_apart(tmp_path: Path, end: str, mark: str) -> None:
    write(tmp_path / "d", "train", 60, end=end, mark=mark)
    write(tmp_path / "d", "t10k", 12, end=end, mark=mark)
    data = open_images(tmp_path / "d")
    assert (len(data.train), len(data.val), len(data.test)) == (54, 6, 12)
    assert data.test.names[0] == "test 0"
    assert data.classes == ("0", "1", "2")
    assert (data.name, data.channels, data.size) == ("d", 1, (5, 6))


def test_test_files_alone_are_split(tmp_path: Path) -> None:
    write(tmp_path / "d", "t10k", 100)
    data = open_images(tmp_path / "d")
    assert (len(data.train), len(data.val), len(data.test)) == (72, 8, 20)


def damaged(content: bytes) -> dict[str, tuple[bytes, str]]:
    return {
        "magic": (b"\x00\x00\x0d" + content[3:], "starts with 00 00 0d 03 instead of 00 00 08 03"),
        "short": (content[:-1], r"announces 4×5×6 bytes and holds 119"),
        "long": (content + b"!", "holds 121"),
        "header only": (content[:9], "is not an IDX file|announces"),
        "empty": (b"", "is not an IDX file"),
        "gz truncated": (gzip.compress(content)[:-9], "truncated gzip"),
        "gz flipped": (gzip.compress(content)[:-6] + b"\0\0\0\0\0\0", "damaged"),
    }


@pytest.mark.parametrize("name", damaged(b"").keys())
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path / "d", "train", 4)
    file = tmp_path / "d" / "train-images-idx3-ubyte"
    content, reason = damaged(file.read_bytes())[name]
    file.write_bytes(content)
    with pytest.raises(DamagedFile, match=reason) as error:
        open_images(tmp_path / "d")
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_labels_must_be_there_and_match(tmp_path: Path) -> None:
    write(tmp_path / "d", "train", 4)
    labels = tmp_path / "d" / "train-labels-idx1-ubyte"
    labels.write_bytes(idx(np.zeros(3, np.uint8)))
    with pytest.raises(FieldguideError, match="holds 4 images but train-labels-idx1-ubyte 3 labels"):
        read_idx_folder(tmp_path / "d")
    labels.unlink()
    with pytest.raises(FieldguideError, match=r"but no train-labels-idx1-ubyte\[.gz\]"):
        read_idx_folder(tmp_path / "d")


def test_a_test_label_outside_the_classes(tmp_path: Path) -> None:
    write(tmp_path / "d", "train", 30)
    write(tmp_path / "d", "t10k", 4)
    (tmp_path / "d" / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([0, 1, 7, 2], np.uint8)))
    with pytest.raises(FieldguideError, match=r"label '7' in .*test \(index 2\) is not among the 3 classes.*: 0, 1, 2"):
        open_images(tmp_path / "d")
