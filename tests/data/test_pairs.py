"""Pairs for translation: lines stay aligned, parts stay apart, and written dates mean what ISO says."""

import datetime
import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.data import Bytes, Pairs, bytes_for, open_pairs, open_pairs_part
from fieldguide.data.dates import dates
from fieldguide.data.pairs import PairPart, _hold_out
from fieldguide.errors import FieldguideError
from fieldguide.train.recipe import Recipe

ENGLISH = [f"line {i}" for i in range(100)]
GERMAN = [f"Zeile {i}" for i in range(100)]


def write(folder: Path, files: dict[str, list[str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    return folder


def both(data: Pairs) -> list[tuple[str, str]]:
    return [pair for part in (data.train, data.val, data.test) for pair in zip(part.sources, part.answers, strict=True)]


SOURCES = {
    "two files": lambda f: (write(f, {"a": ENGLISH, "b": GERMAN}), f"{f / 'a'},{f / 'b'}")[1],
    "source and target": lambda f: write(f, {"source.txt": ENGLISH, "target.txt": GERMAN}),
    "by language": lambda f: write(f, {"train.1en": ENGLISH, "train.2de": GERMAN}),
    "tsv": lambda f: write(f, {"t.tsv": [f"{a}\t{b}" for a, b in zip(ENGLISH, GERMAN, strict=True)]}) / "t.tsv",
    "csv": lambda f: (
        write(f, {"t.csv": ["target,source", *(f"{b},{a}" for a, b in zip(ENGLISH, GERMAN, strict=True))]}) / "t.csv"
    ),
    "jsonl": lambda f: (
        write(f, {"t.jsonl": [json.dumps({"source": a, "target": b}) for a, b in zip(ENGLISH, GERMAN, strict=True)]})
        / "t.jsonl"
    ),
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES)
def test_every_kind_of_source_holds_the_same_pairs(tmp_path: Path, make):
    data = open_pairs(make(tmp_path))
    assert sorted(both(data)) == sorted(zip(ENGLISH, GERMAN, strict=True))
    assert (len(data.train), len(data.val), len(data.test)) == (90, 5, 5)
    line = re.search(r"line (\d+)$", data.test.names[0])
    assert line
    assert int(line[1]) - data.test.names[0].startswith("t.csv") == int(data.test.sources[0].split()[1]) + 1


def test_parts_of_the_users_own_are_kept(tmp_path: Path):
    files = {
        "train.a": ENGLISH,
        "train.b": GERMAN,
        "valid.a": ["v"],
        "valid.b": ["w"],
        "test.a": ["t"],
        "test.b": ["u"],
    }
    data = open_pairs(write(tmp_path, files))
    assert (len(data.train), data.val.sources, data.val.answers) == (100, ["v"], ["w"])
    assert (data.test.sources, data.test.answers) == (["t"], ["u"])
    assert open_pairs_part(tmp_path).sources == ["t"]
    assert len(open_pairs_part(SOURCES["tsv"](tmp_path / "alone"))) == 100


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2).filter(lambda s: len(set(s)) > 1), st.integers(0, 9))
def test_what_is_held_out_is_not_trained_on(sources, seed):
    part = PairPart(sources, [f"{s}{i}" for i, s in enumerate(sources)], [str(i) for i in range(len(sources))])
    rest, held = _hold_out(part, 0.3, torch.Generator().manual_seed(seed), "x")
    assert not set(rest.sources) & set(held.sources)
    assert rest.sources
    assert held.sources
    assert sorted([*rest.answers, *held.answers]) == sorted(part.answers)


def test_the_division_follows_the_data_and_not_the_run(tmp_path: Path):
    source = SOURCES["tsv"](tmp_path)
    once, again, other = open_pairs(source), open_pairs(source), open_pairs(source, split_seed=1)
    assert once.test.sources == again.test.sources != other.test.sources
    assert once.fingerprint == again.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"source.txt": ["a", "b"], "target.txt": ["c"]},
            r"source.txt has 2 lines but .*target.txt has 1; line by line",
        ),
        ({"source.txt": ["a", "", " "], "target.txt": ["c"] * 3}, r"source.txt line 2 and 1 more is empty; fill it"),
        ({"source.txt": ["a", "b"], "target.txt": ["c", ""]}, r"target.txt line 2 is empty"),
        ({"source.txt": [], "target.txt": []}, r"source.txt is empty"),
        ({"train.a": ["x"]}, r"holds 1 files called train \(train.a\); give two, train.<source> and train.<target>"),
        ({"train.a": ["x"], "train.b": ["y"], "train.c": ["z"]}, "holds 3 files called train"),
        ({"test.a": ["x"], "test.b": ["y"]}, "has no training part"),
        ({"notes.txt": ["x"]}, "holds no pairs; accepted: dates, two aligned files"),
        ({"source.txt": ["a", "a"], "target.txt": ["b", "c"]}, "too few different sources to divide"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path: Path, files, said):
    with pytest.raises(FieldguideError, match=said) as error:
        open_pairs(write(tmp_path, files))
    assert "\n" not in str(error.value)


def test_tables_and_names_that_are_wrong_are_named(tmp_path: Path):
    write(tmp_path, {"t.tsv": ["a\tb", "c"], "a.txt": ["x"]})
    with pytest.raises(FieldguideError, match=r"t.tsv line 2 has 1 column; expected source,target,split"):
        open_pairs(tmp_path / "t.tsv")
    with pytest.raises(FieldguideError, match=r"no pairs .*; did you mean 't.tsv'"):
        open_pairs(tmp_path / "tt.tsv")
    with pytest.raises(FieldguideError, match=r"b.txt cannot be read \(No such file"):
        open_pairs(f"{tmp_path / 'a.txt'},{tmp_path / 'b.txt'}")
    with pytest.raises(FieldguideError, match="stands for source and target; give two files"):
        open_pairs(f"{tmp_path / 'a.txt'},{tmp_path / 'a.txt'}")
    with pytest.raises(FieldguideError, match="did you mean 'dates'"):
        open_pairs("date")


@pytest.mark.parametrize("family", ["t5", "transformer"])
def test_batches_of_a_translator(tmp_path: Path, family: str):
    data, tokenizer = open_pairs(SOURCES["tsv"](tmp_path)), bytes_for(family)
    feeds = data.tokenized(tokenizer, 32).feeds(Recipe(batch_size=8))
    for feed, part in zip(feeds, (data.train, data.val, data.test), strict=True):
        found = []
        for source, answer, source_keep, answer_keep in feed.batches(0):
            for tokens, keep in ((source, source_keep), (answer, answer_keep)):
                assert torch.equal(tokens == 0, ~keep)
                lasts = keep.sum(1) - 1
                assert set(tokens.gather(1, lasts[:, None]).flatten().tolist()) == {1}
                assert ((tokens == 1).sum(1) == 1).all()
            found += zip(map(tokenizer.decode, source.tolist()), map(tokenizer.decode, answer.tolist()), strict=True)
        assert sorted(found) == sorted(zip(part.sources, part.answers, strict=True))


def test_texts_too_long_are_named_or_cut(tmp_path: Path):
    rows = [*[f"a{i}\tb" for i in range(9)], f"s\t{'x' * 50}"]
    data = open_pairs(write(tmp_path, {"t.tsv": [*rows, *[f"{row}\ttest" for row in rows[-1:]]]}) / "t.tsv")
    tokenizer = bytes_for("t5")
    with pytest.raises(FieldguideError, match=r"the answer of t.tsv line 1\d has 51 tokens, but the model reads 20"):
        data.tokenized(tokenizer, 20)
    ((source, answer),) = data.tokenized(tokenizer, 20, on_long="cut").test
    assert (len(source), len(answer), answer[-1]) == (2, 20, 1)
    with pytest.raises(FieldguideError, match="the tokenizer has no end token"):
        data.tokenized(Bytes(), 20)


# An independent reader of written dates: what is a word is looked up, what is a number is told by its separators.

MONTHS = {
    name: number
    for names in (
        "january february march april may june july august september october november december",
        "januar februar märz april mai juni juli august september oktober november dezember",
        "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    )
    for number, name in enumerate(names.split(), 1)
}


def read(text: str) -> datetime.date:
    text = re.sub(r"\d+:\d\d", " ", text.lower())
    found = re.search(r"(\d+)([/.-])(\d+)\2(\d+)", text)
    if found:
        a, sign, b, c = int(found[1]), found[2], int(found[3]), int(found[4])
        year, month, day = (a, b, c) if a > 31 else (c, a, b) if sign == "-" else (c, b, a)
    else:
        words = [word for word in re.findall(r"[^\W\d_]+", text) if len(word) > 2]
        numbers = {MONTHS[m] for word in words for m in MONTHS if m == word or (len(word) < 5 and m.startswith(word))}
        (month,) = numbers - ({3} if "mardi" in words and len(numbers) > 1 else set())
        first, second = re.findall(r"\d+", text)
        year, day = (int(first), int(second)) if len(first) == 4 else (int(second), int(first))
    return datetime.date(year + (0 if year > 99 else 1900 if year >= 50 else 2000), month, day)


def test_written_dates_mean_what_iso_says():
    """In every form and language, among weekdays that are the right ones, the year before the day and after it."""
    data = open_pairs("dates")
    assert [len(part) for part in (data.train, data.val, data.test)] == [20_000, 1_000, 1_000]
    assert len({written for written, _ in both(data)}) == 22_000  # so none stands in two parts
    sample = both(data)[-3000:]
    for written, iso in sample:
        assert read(written).isoformat() == iso, written
    weekdays = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
    named = [(day, iso) for written, iso in sample for day in weekdays if day in written.lower()]
    assert len(named) > 100
    assert all(weekdays[datetime.date.fromisoformat(iso).weekday()] == day for day, iso in named)
    years = [(written, iso) for written, iso in sample if iso[:4] in written]
    assert {written.find(iso[:4]) < written.find(str(int(iso[8:]))) for written, iso in years} == {True, False}


def test_dates_are_the_same_for_the_same_seed():
    counts = {"train": 60, "test": 40}
    once, again, other = dates(0, counts), dates(0, counts), dates(1, counts)
    assert {part: len(rows) for part, rows in once.items()} == counts
    assert once == again
    assert once["test"] != other["test"]
