"""CSV files of numbers and words with a target."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler

from fieldguide.data.columns import number, read_table
from fieldguide.data.tabular import RowFeed, Rows, open_rows, open_table
from fieldguide.errors import FieldguideError
from fieldguide.train import Recipe


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(lines: list[str], name: str = "table.csv") -> Path:
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        return tmp_path / name

    return write


def houses(n: int = 40) -> list[str]:
    return ["area,roof,price", *(f"{50 + i},{'flat' if i % 3 else 'gable'},{100 + 2 * i}" for i in range(n))]


def all_rows(data) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    parts = (data.train, data.val, data.test)
    order = torch.cat([part.lines for part in parts]).argsort()
    return tuple(torch.cat([getattr(p, name) for p in parts])[order] for name in ("inputs", "targets", "lines"))


def test_real_data_come_back_as_they_were_written(write):
    x, y = load_diabetes(return_X_y=True, scaled=False)
    names = [f"c{i}" for i in range(x.shape[1])]
    file = write(
        [",".join([*names, "y"]), *(",".join(map(repr, map(float, (*row, t)))) for row, t in zip(x, y, strict=True))]
    )
    data = open_table(file, "y")
    inputs, targets, lines = all_rows(data)
    assert torch.equal(inputs, torch.tensor(x, dtype=torch.float32))
    assert torch.equal(targets, torch.tensor(y, dtype=torch.float32))
    assert lines.tolist() == [*range(2, len(y) + 2)]
    assert [len(part) for part in (data.train, data.val, data.test)] == [319, 35, 88]
    scaler = StandardScaler().fit(data.train.inputs.double().numpy())
    np.testing.assert_allclose(data.mean, scaler.mean_, rtol=1e-9)
    np.testing.assert_allclose(data.std, scaler.scale_, rtol=1e-9)
    assert (data.kind, data.classes, data.name) == ("regress", None, "table")


def test_words_become_one_input_for_each(write):
    data = open_table(write(houses()), "price")
    assert [(c.name, c.levels) for c in data.columns] == [("area", None), ("roof", ("flat", "gable"))]
    inputs = all_rows(data)[0]
    assert inputs[:4].tolist() == [[50, 0, 1], [51, 1, 0], [52, 1, 0], [53, 0, 1]]
    assert data.mean[1:] == (0, 0)
    assert data.std[1:] == (1, 1)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(write, delimiter):
    lines = [line.replace(",", delimiter) for line in houses()]
    lines[1] = lines[1].replace("gable", '"gable"')
    plain, other = open_table(write(houses(), "a.csv"), "price"), open_table(write(lines, "b.csv"), "price")
    assert plain.fingerprint == other.fingerprint


def test_the_parts_depend_on_the_table_alone_and_never_overlap(write):
    file = write(houses(100))
    one, other = open_table(file, "price"), open_table(file, "price", split_seed=1)
    assert torch.equal(one.test.lines, open_table(file, "price").test.lines)
    assert not torch.equal(one.test.lines, other.test.lines)
    assert sorted(torch.cat([one.train.lines, one.val.lines, one.test.lines]).tolist()) == [*range(2, 102)]


def test_a_column_split_divides(write):
    lines = houses(30)
    parts = ["split", *["train"] * 20, *["valid"] * 4, *["Test"] * 6]
    data = open_table(write([f"{line},{part}" for line, part in zip(lines, parts, strict=True)]), "price")
    assert [len(part) for part in (data.train, data.val, data.test)] == [20, 4, 6]
    assert data.test.lines.tolist() == [*range(26, 32)]
    assert [column.name for column in data.columns] == ["area", "roof"]
    assert data.target_mean == pytest.approx(np.mean([100 + 2 * i for i in range(20)]))


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        (["yes", "no"], None, ("no", "yes")),
        (["0", "1"], None, ("0", "1")),
        (["3", "20", "100"], None, None),
        (["3", "20", "100"], "classify", ("3", "20", "100")),
        (["0", "1"], "regress", None),
    ],
)
def test_what_the_target_is(write, values, kind, classes):
    lines = ["x,y", *(f"{i},{values[i % len(values)]}" for i in range(60))]
    data = open_table(write(lines), "y", kind=kind)
    assert data.classes == classes
    if classes:
        assert [classes[int(label)] for label in all_rows(data)[1][:3]] == [values[i % len(values)] for i in range(3)]
        assert (data.target_mean, data.target_std) == (0, 1)
        assert set(data.test.targets.tolist()) == set(range(len(classes)))


def with_gaps() -> list[str]:
    lines = houses()
    lines[3], lines[7] = "NA,flat,104", "56,,112"
    return lines


def test_missing_values(write):
    file = write(with_gaps())
    with pytest.raises(
        FieldguideError, match=r"table.csv line 4, column 'area' has no value \('NA'\), nor have 1 other"
    ):
        open_table(file, "price")
    dropped = open_table(file, "price", on_missing="drop")
    assert dropped.dropped == 2
    assert not {4, 8} & set(all_rows(dropped)[2].tolist())
    filled = open_table(file, "price", on_missing="mean")
    inputs, _, lines = all_rows(filled)
    area = filled.train.inputs[~torch.isin(filled.train.lines, torch.tensor([4])), 0]
    assert inputs[lines == 4][0, 0] == pytest.approx(area.mean().item())
    assert inputs[lines == 8][0].tolist() == [56, 1, 0]  # flat is the more frequent
    assert [column.fill for column in filled.columns] == [pytest.approx(area.mean().item()), "flat"]


def test_a_target_is_never_made_up(write):
    lines = houses()
    lines[5] = "54,flat,?"
    with pytest.raises(FieldguideError, match="line 6, column 'price' has no value"):
        open_table(write(lines), "price", on_missing="mean")
    assert open_table(write(lines), "price", on_missing="drop").dropped == 1


def replaced(row: int, line: str) -> list[str]:
    return [*houses()[:row], line, *houses()[row + 1 :]]


@pytest.mark.parametrize(
    ("lines", "target", "message"),
    [
        (houses(), "prise", "unknown target 'prise'; did you mean 'price'"),
        (replaced(4, "fifty,flat,106"), "price", "line 5, column 'area' is 'fifty', and most of the column"),
        (replaced(4, "53,flat,dear"), "price", "line 5, column 'price' is 'dear', and most"),
        (replaced(4, '"53,5",flat,106'), "price", "line 5, column 'area' is '53,5'; write numbers with a decimal"),
        (replaced(4, "inf,flat,106"), "price", "line 5, column 'area' is 'inf', not finite"),
        (replaced(4, "53,flat,1e300"), "price", "line 5, column 'price' is '1e300', not finite, or too large"),
        (replaced(4, "nan,flat,106"), "price", r"line 5, column 'area' has no value \('nan'\)"),
        (replaced(4, "53,flat"), "price", "line 5 has 2 cells and the header 3 columns"),
        (houses()[:1], "price", "has no rows"),
        (houses()[1:], "price", "unknown target 'price'"),
        (["1,2,3", "4,5,6"], "3", "line 1 holds numbers; name the columns there, such as x1,x2,y"),
        (["a,a,y", "1,2,3"], "y", "two columns 'a'; rename one"),
        (["a,,y", "1,2,3"], "y", "column 2 has no name"),
        (["y", "1", "2"], "y", "single column 'y'"),
        (["a,y", *(f"{i},7" for i in range(20))], "y", "target 'y' is '7' in every row"),
        (["a,y", *(f",{i}" for i in range(20))], "y", "column 'a' has no value"),
        (["split,y", *(f"train,{i}" for i in range(20))], "y", "no column besides 'y'"),
        (["a,split,y", *(f"{i},tarin,{i}" for i in range(20))], "y", "unknown split 'tarin'; did you mean 'train'"),
        (["a,split,y", *(f"{i},test,{i}" for i in range(20))], "y", "no row has split 'train'"),
        (["a,y", *(f"w{i},{i}" for i in range(31))], "y", "column 'a' has 31 different words"),
        (["a,y", *(f"{1.7e9 + i},{i}" for i in range(30))], "y", "column 'a' differ only after the fifth digit"),
    ],
)  # fmt: skip
def test_mistakes_get_one_line(write, lines, target, message):
    with pytest.raises(FieldguideError, match=message) as caught:
        open_table(write(lines), target, on_missing="stop")
    assert "\n" not in str(caught.value)


def test_text_where_numbers_are_wanted(write):
    with pytest.raises(FieldguideError, match="line 2, column 'roof' is 'gable'; a target to regress must be numbers"):
        open_table(write(houses()), "roof", kind="regress")


def test_other_files(tmp_path, write):
    with pytest.raises(FieldguideError, match="cannot be read"):
        open_table(tmp_path / "none.csv", "y")
    (tmp_path / "latin.csv").write_bytes("größe,y\n1,2\n".encode("latin-1"))
    with pytest.raises(FieldguideError, match="UTF-8"):
        open_table(tmp_path / "latin.csv", "y")


def test_rows_to_predict_need_no_target_and_no_order(write):
    data = open_table(write(houses()), "price")
    rows = open_rows(write(["roof,other,area", "gable,?,61.5"], "new.csv"), data.columns)
    assert rows.inputs.tolist() == [[61.5, 0, 1]]
    with pytest.raises(FieldguideError, match="unknown column 'area'"):
        open_rows(write(["roof,aera", "gable,1"], "new.csv"), data.columns)
    with pytest.raises(FieldguideError, match=r"line 2, column 'roof' is 'gabel', .*did you mean 'gable'"):
        open_rows(write(["roof,area", "gabel,1"], "new.csv"), data.columns)
    with pytest.raises(FieldguideError, match="line 2, column 'area' has no value"):
        open_rows(write(["roof,area", "flat,"], "new.csv"), data.columns)
    with pytest.raises(FieldguideError, match="line 2, column 'area' is 'x', not a number"):
        open_rows(write(["roof,area", "flat,x"], "new.csv"), data.columns)


def test_what_was_missing_in_training_may_be_missing_later(write):
    data = open_table(write(with_gaps()), "price", on_missing="mean")
    rows = open_rows(write(["roof,area", ",NA"], "new.csv"), data.columns)
    assert rows.inputs[0].tolist() == pytest.approx([data.columns[0].fill, 1, 0])


def test_a_class_that_training_did_not_see(write):
    file = write(["x,y", *(f"{i},{'ab'[i % 2]}" for i in range(30))])
    data = open_table(file, "y")
    with pytest.raises(FieldguideError, match=r"unknown class 'c'.*line 3"):
        open_rows(write(["x,y", "1,a", "2,c"], "new.csv"), data.columns, "y", data.classes)


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 3), st.integers(0, 5))
def test_an_epoch_reads_every_row_once_and_resumes_anywhere(n, size, epoch, start):
    rows = Rows(torch.arange(n, dtype=torch.float32)[:, None], torch.arange(n), torch.arange(n))
    for shuffle in (True, False):
        if shuffle and size > n:
            continue
        feed = RowFeed(rows, size, seed=3, shuffle=shuffle)
        batches = list(feed.batches(epoch))
        assert len(batches) == len(feed)
        seen = torch.cat([targets for _, targets in batches])
        assert sorted(seen.tolist()) == [*range(n)]
        assert shuffle or seen.tolist() == [*range(n)]
        assert all(torch.equal(inputs[:, 0].long(), targets) for inputs, targets in batches)
        rest = list(feed.batches(epoch, start))
        assert len(rest) == max(0, len(batches) - start)
        for one, other in zip(rest, batches[start:], strict=True):
            assert torch.equal(one[1], other[1])


def test_feeds_take_the_recipe_and_refuse_a_batch_that_is_too_large(write):
    data = open_table(write(houses()), "price")
    train, val, test = data.feeds(Recipe(batch_size=8))
    assert [len(feed) for feed in (train, val, test)] == [4, 1, 1]
    assert not torch.equal(next(train.batches(0))[1], next(train.batches(1))[1])
    assert torch.equal(next(test.batches(0))[1], data.test.targets)
    with pytest.raises(FieldguideError, match=r"batch_size 64 is larger than the training part \(29 rows\)"):
        data.feeds(Recipe(batch_size=64))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_is_read(value):
    assert number(repr(value)) == value


@pytest.mark.parametrize("cell", ["1_000", "1,5", "", "abc", "0x10", "1 2"])
def test_what_is_no_number(cell):
    assert number(cell) is None


def test_empty_lines_are_no_rows(write):
    assert read_table(write(["a,b", "", "1,2", ",", "3,4"])).lines == (3, 5)
