"""CSV files of path, label and split."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fieldguide.data import open_images
from fieldguide.data.table import list_table
from fieldguide.errors import FieldguideError

Lines = list[str]


@pytest.fixture
def make_table(make_folder: Callable[..., Path]) -> Callable[[Lines], Path]:
    folder = make_folder({"x": 20})

    def make(lines: Lines) -> Path:
        (folder / "table.csv").write_text("\n".join(lines), encoding="utf-8")
        return folder / "table.csv"

    return make


def rows(count: int = 20, split: str = "") -> Lines:
    return [f"x/{i:02}.png,{'even' if i % 2 == 0 else 'odd'}{split}" for i in range(count)]


@pytest.mark.parametrize("header", [[], ["path,label"], ["file,class"], ["\ufeffPath, Label"], ["", "image,whatever"]])
def test_with_and_without_header(make_table: Callable[[Lines], Path], header: Lines) -> None:
    data = open_images(make_table([*header, *rows(), ""]))
    assert data.classes == ("even", "odd")
    assert len(data.train) + len(data.val) + len(data.test) == 20
    for name, label in zip(data.train.names, data.train.labels.tolist(), strict=True):
        assert int(Path(name).stem) % 2 == label


def test_a_header_may_name_columns_in_any_order(make_table: Callable[[Lines], Path]) -> None:
    lines = ["id,split,label,path"] + [f"{i},{'test' if i < 4 else 'train'},c{i % 2},x/{i:02}.png" for i in range(20)]
    data = open_images(make_table(lines))
    assert sorted(data.test.names) == [f"x/{i:02}.png" for i in range(4)]
    assert data.classes == ("c0", "c1")


def test_a_third_column_divides(make_table: Callable[[Lines], Path]) -> None:
    lines = [row + ("", ",train", ",val", ",test")[max(0, i - 16)] for i, row in enumerate(rows())]
    data = open_images(make_table(lines))
    assert (len(data.train), data.val.names, data.test.names) == (18, ["x/18.png"], ["x/19.png"])


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "lists no images"),
        (["path,label"], "lists no images"),
        ([*rows(), "x/00.png"], "line 21 is 'x/00.png'; expected path,label"),
        ([*rows(), "x/00.png,"], "line 21 .* expected path,label"),
        ([*rows(), "x/00.png,even,trian"], "unknown split 'trian'; did you mean 'train'.*line 21"),
        ([*rows(), "x/99.png,even"], r"1 of 21 images .*x/99.png \(no such file\)"),
        ([*rows(), "x,even"], r"1 of 21 images .*x \(.*irectory"),
        ([*rows(), "x/00.png,evn,test"], r"label 'evn' in .*test \(x/00.png\) .* did you mean 'even'"),
        (["x/00.png,a", "x/01.png,a", "x/02.png,a"], "single class"),
    ],
)
def test_what_is_wrong_is_said(make_table: Callable[[Lines], Path], lines: Lines, reason: str) -> None:
    with pytest.raises(FieldguideError, match=reason) as error:
        open_images(make_table(lines))
    assert "\n" not in str(error.value)


def test_a_binary_file_is_not_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xff\xfb\x00\x80")
    with pytest.raises(FieldguideError, match="is not a text file"):
        list_table(tmp_path / "t.csv")
