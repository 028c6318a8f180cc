"""Running text: every character in one part, and an error that names the file and the byte."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.data import Bytes, MaskedTexts, Texts, TextStream, bytes_for, read_text, train_bpe
from fieldguide.data.documents import Document, read_document
from fieldguide.data.texts import _cut
from fieldguide.errors import FieldguideError
from fieldguide.train.recipe import Recipe

RECIPE = Recipe(batch_size=4, seed=1)


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def whole(texts: Texts) -> str:
    return "".join(text for part in (texts.train, texts.val, texts.test) for _, text in part)


def test_a_file_is_divided_from_its_end(tmp_path: Path):
    text = "".join(f"line {i}\n" for i in range(500))
    texts = read_text(write(tmp_path, {"story.txt": text}) / "story.txt")
    assert texts.name == "story"
    assert whole(texts) == text
    sizes = [sum(len(d.text) for d in part) for part in (texts.train, texts.val, texts.test)]
    assert [round(size / len(text), 2) for size in sizes] == [0.9, 0.05, 0.05]
    assert texts.test[0].name == "story.txt"


@given(st.lists(st.text(min_size=1), min_size=1), st.data())
def test_a_cut_loses_nothing(pieces, data):
    documents = [Document(str(i), piece) for i, piece in enumerate(pieces)]
    text = "".join(pieces)
    last = data.draw(st.integers(0, len(text)))
    before, after = _cut(documents, last)
    assert "".join(d.text for d in before) + "".join(d.text for d in after) == text
    assert sum(len(d.text) for d in after) == last
    assert all(d.text for d in before + after)


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path):
    files = {
        "b.md": "bb" * 20,
        "a/z.py": "az" * 20,
        "a/.hidden.txt": "no",
        ".git/x.txt": "no",
        "p.png": b"\0",
        "c.txt": "",
    }
    texts = read_text(write(tmp_path, files))
    assert whole(texts) == "az" * 20 + "bb" * 20
    assert [d.name for d in texts.train] == ["a/z.py", "b.md"]


@pytest.mark.parametrize("val", ["val.txt", "valid/one.txt", "validation.txt"])
def test_parts_of_the_users_own_are_kept(tmp_path: Path, val: str):
    texts = read_text(write(tmp_path, {"train/a.txt": "t" * 100, val: "v" * 9, "test.txt": "e", "README.md": "r"}))
    assert [[d.text for d in part] for part in (texts.train, texts.val, texts.test)] == [["t" * 100], ["v" * 9], ["e"]]
    only = read_text(write(tmp_path / "two", {"train.txt": "t" * 99 + "u", "test.txt": "e" * 7}))
    assert ([d.text for d in only.val], only.test[0].text) == (["tttt" + "u"], "e" * 7)


def test_a_program_called_train_is_no_part(tmp_path: Path):
    texts = read_text(write(tmp_path, {"train.py": "import model\n" * 5, "model.py": "x = 1\n" * 9}))
    assert [document.name for document in texts.train] == ["model.py", "train.py"]


def test_the_source_of_python_is_always_there():
    texts = read_text("python-source")
    size = len(whole(texts))
    assert 4e6 < size <= 8e6
    assert all(name.endswith(".py") and "test/" not in name for name, _ in (*texts.train, *texts.test))
    assert texts.fingerprint == read_text("python-source").fingerprint


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_say_what_they_are(tmp_path: Path, encoding: str):
    (tmp_path / "a.txt").write_bytes("Grüße\r\naus\rKöln\n".encode(encoding))
    assert read_document(tmp_path / "a.txt").text == "Grüße\naus\nKöln\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("good " * 10 + "\N{EURO SIGN}", None),
        (
            ("gut €" * 3).encode() + "Grüße".encode("latin1"),
            r"a.txt is not UTF-8: byte 23 is 0xfc; save it as UTF-8, or",
        ),
        (b"text\0more" * 9, r"a.txt is not a text file: byte 4 is NUL"),
        (b"\xff\xfea\x00b", r"a.txt is not UTF-16: byte 4 is 0x62"),
        ("", r"a.txt is empty"),
        (" \n\n", r"a.txt is empty"),
        ("too short", r"a has 9 characters, too few to divide; give at least 20"),
    ],
)
def test_what_is_no_text_is_named_with_its_byte(tmp_path: Path, content, said):
    file = write(tmp_path, {"a.txt": content}) / "a.txt"
    if said is None:
        assert whole(read_text(file)) == content
    else:
        with pytest.raises(FieldguideError, match=said) as error:
            read_text(file)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "holds no text; accepted: .txt"),
        ({"a.png": "x"}, "holds no text; accepted: .txt"),
        ({"train/a.png": "x"}, "train holds no text"),
        ({"train.txt": "x" * 50, "extra.txt": "y"}, "holds train but also extra.txt"),
        ({"train.txt": "x" * 50, "test.txt": " "}, "test.txt is empty"),
        ({"a.txt": "x" * 50, "b.txt": b"\xe9t\xe9"}, "b.txt is not UTF-8: byte 0 is 0xe9"),
    ],
)
def test_folders_that_cannot_be_read_are_named(tmp_path: Path, files, said):
    with pytest.raises(FieldguideError, match=said):
        read_text(write(tmp_path, files))


def test_a_missing_source_has_its_nearest_name(tmp_path: Path):
    with pytest.raises(FieldguideError, match=r"no text .*; did you mean 'story.txt'\? accepted"):
        read_text(write(tmp_path, {"story.txt": "x"}) / "storry.txt")
    with pytest.raises(FieldguideError, match="did you mean 'python-source'"):
        read_text("python-sauce")


def test_what_the_system_refuses_is_one_line():
    with pytest.raises(FieldguideError, match=r"cannot be read \(File name too long\)"):
        read_text("x" * 5000)


def test_a_stream_holds_every_byte_and_its_feeds_read_it(tmp_path: Path):
    source = write(tmp_path, {"a.txt": "first " * 200, "b.txt": "second " * 200})
    texts = read_text(source)
    stream = TextStream(texts, Bytes(), 16)
    assert bytes(torch.cat([stream.train, stream.val, stream.test]).tolist()).decode() == whole(texts)
    train, val, test = stream.feeds(RECIPE)
    assert next(train.batches(0))[0].shape == (4, 17)
    assert torch.equal(torch.cat([tokens[:, 1:].flatten() for (tokens,) in val.batches(0)]), stream.val[1:])
    assert len(test) > 0
    marked = TextStream(texts, Bytes(("end",)), 16)
    assert (marked.train == 0).sum() == len(texts.train)
    assert len({stream.fingerprint, marked.fingerprint, TextStream(texts, Bytes(), 17).fingerprint}) == 3


def test_a_part_too_short_for_a_language_model_is_named(tmp_path: Path):
    texts = read_text(write(tmp_path, {"train.txt": "t" * 99, "val.txt": "v", "test.txt": "e" * 9}))
    with pytest.raises(FieldguideError, match=r"the validation part of .* is a single token"):
        TextStream(texts, Bytes(), 4).feeds(RECIPE)


@pytest.mark.parametrize("max_len", [3, 10, 128])
def test_pieces_for_masking_hold_each_document_between_start_and_end(tmp_path: Path, max_len: int):
    texts = read_text(write(tmp_path, {"a.txt": "first " * 30, "b.txt": "zweiter " * 30}))
    tokenizer = bytes_for("roberta")
    masked = MaskedTexts(texts, tokenizer, max_len)
    assert "".join(tokenizer.decode(row) for (row,) in masked.train) == "".join(text for _, text in texts.train)
    assert all(row[0] == 0 and row[-1] == 2 and 3 <= len(row) <= max_len for (row,) in masked.train)
    train, val, _ = masked.feeds(Recipe(batch_size=2))
    for tokens, keep in (next(train.batches(0)), next(val.batches(0))):
        assert torch.equal(tokens == 1, ~keep)  # RoBERTa's padding


def test_subwords_make_the_same_pieces(tmp_path: Path):
    texts = read_text(write(tmp_path, {"a.txt": "one two three four five " * 40}))
    tokenizer = train_bpe([text for _, text in texts.train], 280, specials=("pad", "start", "end", "mask"))
    masked = MaskedTexts(texts, tokenizer, 32)
    assert "".join(tokenizer.decode(row) for (row,) in masked.train) == texts.train[0].text
    with pytest.raises(FieldguideError, match="max_len is 2; start and end leave no room"):
        MaskedTexts(texts, tokenizer, 2)
