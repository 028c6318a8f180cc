"""Labelled texts: what a table or folder says is what a network is given, and mistakes are named with their line."""

import argparse
import csv
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.data import LabelledTexts, bytes_for, open_labelled, open_labelled_part
from fieldguide.data.labelled import LabelledPart
from fieldguide.data.records import read_records
from fieldguide.errors import FieldguideError
from fieldguide.train.recipe import Recipe

ROWS = [(f"text {i}, number {i}", "even" if i % 2 == 0 else "odd") for i in range(20)]


def write(file: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] | None = None) -> Path:
    """A table as the standard library writes it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix in (".jsonl", ".ndjson"):
        names = header or ("text", "label", "split")
        file.write_text("\n".join(json.dumps(dict(zip(names, row, strict=False))) for row in rows))
    elif file.suffix == ".tsv":
        file.write_text("\n".join("\t".join(row) for row in [*([header] if header else []), *rows]))
    else:
        with file.open("w", newline="") as stream:
            csv.writer(stream).writerows([*([header] if header else []), *rows])
    return file


def pairs(part: LabelledPart, data: LabelledTexts) -> list[tuple[str, str]]:
    return [(text, data.classes[label]) for text, label in zip(part.texts, part.labels.tolist(), strict=True)]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".ndjson"])
def test_every_kind_of_table_holds_the_same(tmp_path: Path, suffix: str):
    data = open_labelled(write(tmp_path / f"numbers{suffix}", ROWS))
    assert (data.name, data.classes) == ("numbers", ("even", "odd"))
    assert sorted(pairs(data.train, data) + pairs(data.val, data) + pairs(data.test, data)) == sorted(ROWS)
    assert (len(data.test), len(data.val)) == (4, 2)
    for part in (data.train, data.val, data.test):
        assert {0, 1} == set(part.labels.tolist())
        for text, name in zip(part.texts, part.names, strict=True):
            assert name == f"numbers{suffix} line {int(text.split()[1][:-1]) + 1}"


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_columns_may_stand_in_any_order(tmp_path: Path, suffix: str):
    parts = ["train"] * 14 + ["valid"] * 3 + ["test"] * 3
    rows = [(str(i), label, part, text) for i, ((text, label), part) in enumerate(zip(ROWS, parts, strict=True))]
    data = open_labelled(write(tmp_path / f"t{suffix}", rows, ("id", "label", "split", "text")))
    assert pairs(data.train, data) == ROWS[:14]
    assert pairs(data.val, data) == ROWS[14:17]
    assert pairs(data.test, data) == ROWS[17:]


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1),
                          st.sampled_from("abc")), min_size=1))  # fmt: skip
def test_what_csv_and_jsonl_can_write_is_read(tmp_path_factory, rows):
    rows = [(f"{text}.", label) for text, label in rows]
    folder = tmp_path_factory.mktemp("tables")
    for suffix in (".csv", ".jsonl"):
        table = write(folder / f"t{suffix}", [*rows, ("end", "a")], ("text", "label"))
        assert [record.values for record in read_records(table, ("text", "label"))] == [*rows, ("end", "a")]


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path):
    (tmp_path / "t.csv").write_text('text,label\n"two\nlines",a\n\nlast,b\n')
    records = read_records(tmp_path / "t.csv", ("text", "label"))
    assert [record.place for record in records] == ["t.csv line 2", "t.csv line 5"]


def test_a_document_may_be_longer_than_the_csv_module_expects(tmp_path: Path):
    table = write(tmp_path / "t.csv", [("word " * 50_000 + ".", "a"), ("b", "c")])
    assert len(read_records(table, ("text", "label"))[0].values[0]) == 250_001


def test_labels_of_json_may_be_numbers(tmp_path: Path):
    data = open_labelled(write(tmp_path / "t.jsonl", [(text, int(label == "odd")) for text, label in ROWS]))  # pyright: ignore[reportArgumentType]
    assert data.classes == ("0", "1")


def test_a_folder_of_folders(tmp_path: Path):
    for i, (text, label) in enumerate(ROWS):
        (tmp_path / "pets" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / label / f"{i:02}.txt").write_text(text)
    data = open_labelled(tmp_path / "pets")
    assert (data.name, data.classes) == ("pets", ("even", "odd"))
    assert sorted(pairs(data.train, data) + pairs(data.val, data) + pairs(data.test, data)) == sorted(ROWS)
    assert all(name.startswith(("even/", "odd/")) for name in data.train.names)
    (tmp_path / "pets" / "odd" / "21.txt").write_text("\n")
    with pytest.raises(FieldguideError, match=r"21.txt is empty; remove it"):
        open_labelled(tmp_path / "pets")


def test_the_fingerprint_follows_every_text_and_label(tmp_path: Path):
    changed = [("another", ROWS[0][1]), *ROWS[1:]], [(ROWS[0][0], "odd"), *ROWS[1:]], ROWS[::-1]
    marks = {open_labelled(write(tmp_path / "t.csv", rows)).fingerprint for rows in (ROWS, *changed)}
    assert len(marks) == 4
    assert open_labelled(write(tmp_path / "t.csv", ROWS)).fingerprint in marks


def test_a_trained_model_is_evaluated_on_its_own_classes(tmp_path: Path):
    part = open_labelled_part(write(tmp_path / "t.csv", ROWS[:1]), classes=("even", "odd"))
    assert (part.labels.tolist(), len(part)) == ([0], 1)
    tested = [(*row, "test" if i < 3 else "train") for i, row in enumerate(ROWS)]
    assert len(open_labelled_part(write(tmp_path / "t.csv", tested), classes=("even", "odd"))) == 3
    with pytest.raises(FieldguideError, match=r"label 'even' in t: train \(t.csv line 1\) is not among"):
        open_labelled_part(write(tmp_path / "t.csv", ROWS), classes=("one", "two"))


def test_batches_of_a_classifier(tmp_path: Path):
    data, tokenizer = open_labelled(write(tmp_path / "t.csv", ROWS)), bytes_for("bert")
    tokenized = data.tokenized(tokenizer, 64)
    for feed, part in zip(tokenized.feeds(Recipe(batch_size=5)), (data.train, data.val, data.test), strict=True):
        found = []
        for tokens, keep, labels in feed.batches(0):
            assert torch.equal(tokens == tokenizer.specials["pad"], ~keep)
            assert set(tokens[:, 0].tolist()) == {tokenizer.specials["start"]}
            texts = [tokenizer.decode(row) for row in tokens.tolist()]
            found += zip(texts, (data.classes[i] for i in labels.tolist()), strict=True)
        assert sorted(found) == sorted(pairs(part, data))


def test_a_text_too_long_is_named_or_cut(tmp_path: Path):
    data, tokenizer = open_labelled(write(tmp_path / "t.csv", [("x" * 40, "odd"), *ROWS])), bytes_for("bert")
    with pytest.raises(FieldguideError, match=r"t.csv line 1 has 42 tokens, but the model reads 30; choose a larger"):
        data.tokenized(tokenizer, 30)
    with pytest.raises(FieldguideError, match=r"and 1\d more are too long"):
        data.tokenized(tokenizer, 10)
    rows = [row for row, _ in data.tokenized(tokenizer, 10, on_long="cut").train]
    assert {len(row) for row in rows} == {10}
    assert {(row[0], row[-1]) for row in rows} == {(1, 2)}
    with pytest.raises(FieldguideError, match="max_len is 2; start and end leave no room"):
        data.tokenized(tokenizer, 2, on_long="cut")


def test_lines_of_python_are_what_they_are_called():
    """Against the file itself: comments are the lines that begin with #, and every line stands where it is said to."""
    data = open_labelled("python-lines")
    parts = (data.train, data.val, data.test)
    assert data.classes == ("code", "comment", "docstring")
    assert [len(part) for part in parts] == [4320, 480, 1200]
    rows = [(name, *pair) for part in parts for name, pair in zip(part.names, pairs(part, data), strict=True)]
    assert len({text for _, text, _ in rows}) == len(rows)
    assert not [text for _, text, label in rows if text != text.strip() or (label == "comment" and text[0] == "#")]
    source = Path(argparse.__file__).read_text().splitlines()
    of_argparse = [row for row in rows if row[0].startswith("argparse.py line")]
    assert {label for _, _, label in of_argparse} == set(data.classes)
    for name, text, label in of_argparse:
        line = source[int(name.rpartition(" ")[2]) - 1]
        assert text in line if {"#", '"', "'"} & set(line) else text == line.strip()
        assert line.lstrip().startswith("#") == (label == "comment")


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("t.csv", "", "holds no lines of text,label"),
        ("t.csv", "text,label\n", "holds no lines of text,label"),
        ("t.csv", "a,b\n,c\n", "t.csv line 2 has no text; give one"),
        ("t.csv", "a,b\nc, \n", "t.csv line 2 has no label"),
        ("t.csv", "a,b\nc\n", "t.csv line 2 has 1 column; expected text,label,split"),
        ("t.csv", "a,b\nc,d,e,f\n", "t.csv line 2 has 4 columns"),
        ("t.csv", "a,b\nc,d,tset\n", "unknown split 'tset'; did you mean 'test'.*t.csv line 2"),
        ("t.csv", 'a,b\n"c,d\n', r"t.csv line 2 is no CSV \(unexpected end of data\); put texts with commas"),
        ("t.csv", "text,lable\na,b\n", "line 1 names no column 'label'; did you mean 'lable'"),
        ("t.csv", "a,b\nc,b\n", r"single class \(b\)"),
        ("t.csv", "a,b\nc,d\n", "class 'b' has 1 sample left to split"),
        ("t.csv", "a,b,test\nc,d,test\n", "has no training part"),
        ("t.csv", "a,b\nc,d\ne,f,test\n", "label 'f' in t: test .t.csv line 3. is not among the 2 classes"),
        ("t.csv", "a,b\n\xe4,c\n", "t.csv is not UTF-8: byte 4 is 0xe4"),
        ("t.tsv", "a\tb\nc d\n", "t.tsv line 2 has 1 column"),
        ("t.jsonl", '{"text": "a", "label": "b"}\n{"text": 1}', "t.jsonl line 2 has no label"),
        ("t.jsonl", '{"text": "a", "label": "b"}\n{', "t.jsonl line 2 is no JSON"),
        ("t.jsonl", "[1, 2]", "t.jsonl line 1 is no JSON object; expected"),
        ("t.jsonl", '{"text": ["a"], "label": "b"}', r't.jsonl line 1: text is \["a"\]; expected a text'),
        ("t.xlsx", "PK", r"t.xlsx is a .xlsx; accepted: .csv .tsv .jsonl .ndjson"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, file, content, said):
    (tmp_path / file).write_bytes(content.encode("latin1"))
    with pytest.raises(FieldguideError, match=said) as error:
        open_labelled(tmp_path / file)
    assert "\n" not in str(error.value)


def test_folders_and_names_that_are_wrong_are_named(tmp_path: Path):
    with pytest.raises(
        FieldguideError, match=r"has no class folders \(it is empty\); put each class's text files into"
    ):
        open_labelled(tmp_path)
    with pytest.raises(FieldguideError, match="did you mean 'python-lines'"):
        open_labelled("python-line")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"")
    with pytest.raises(FieldguideError, match=r"class folder .*a has no text files .*; accepted: .txt"):
        open_labelled(tmp_path)
