"""Tokenizers: equal to transformers' own on the same files, and no text changes on the way there and back."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from fieldguide.data import Bytes, Subwords, Tokenizer, bytes_for, open_tokenizer, read_text, train_bpe
from fieldguide.data.tokenizer import SPECIALS
from fieldguide.errors import DamagedFile, FieldguideError

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "  Café naïve, ÜBER straße — 東京 12,345.67!\n\tNew line and tab.",
    "def encode(self, text: str) -> list[int]: return [ord(c) for c in text]",
    "Paris is the [MASK] of France, said <mask> and <|endoftext|>.",
    "e\u0301 is é; emoji 👩\u200d🚀 and \u0000control\u0007 characters",
    "",
)


def lines() -> Iterator[str]:
    """Real text that is always there."""
    yield from Path(json.__file__).read_text().splitlines()
    yield from SENTENCES[:3]


def transformers():
    return pytest.importorskip("transformers")


def wordpiece(folder: Path, cased: bool) -> Path:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))  # pyright: ignore[reportCallIssue]
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(lines(), trainers.WordPieceTrainer(vocab_size=400, special_tokens=names))
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    words.insert(20, ("a\u2028b", 20))  # one word of public vocabularies is a line end to str.splitlines
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words), encoding="utf-8")
    return folder


def byte_level(folder: Path, names: list[str]) -> Path:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=names, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(lines(), trainer)
    tokenizer.model.save(str(folder))
    return folder


def unigram(folder: Path) -> Path:
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    names = ["<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        lines(), trainers.UnigramTrainer(vocab_size=300, special_tokens=names, unk_token="<unk>")
    )
    tokenizer.enable_padding(length=64)  # what is saved for training must not change what is read
    tokenizer.enable_truncation(5)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_vocab_txt_is_read_as_bert_reads_it(tmp_path: Path):
    oracle = transformers().BertTokenizer.from_pretrained(wordpiece(tmp_path, cased=False))
    ours = open_tokenizer(tmp_path / "vocab.txt")
    assert ours.specials == {"pad": 0, "unknown": 1, "start": 2, "end": 3, "mask": 4}
    assert ours.vocab_size == len(oracle)
    for text in SENTENCES:
        assert ours.encode(text) == oracle.encode(text, add_special_tokens=False)
        assert ours.frame(ours.encode(text)) == oracle.encode(text)
    assert ours.decode([2, *ours.encode("the quick fox"), 3, 0]) == "the quick fox"


def test_bert_keeps_case_where_its_config_says_so(tmp_path: Path):
    config = {"do_lower_case": False, "strip_accents": None, "tokenize_chinese_chars": False}
    (wordpiece(tmp_path, cased=True) / "tokenizer_config.json").write_text(json.dumps(config))
    oracle = transformers().BertTokenizer.from_pretrained(tmp_path)
    ours = open_tokenizer(tmp_path)
    assert [ours.encode(text) for text in SENTENCES] == [oracle.encode(t, add_special_tokens=False) for t in SENTENCES]
    assert ours.encode("The") != ours.encode("the")


@pytest.mark.parametrize(
    ("kind", "names", "roles"),
    [
        ("GPT2Tokenizer", ["<|endoftext|>"], {"end": 0}),
        ("RobertaTokenizer", ["<s>", "<pad>", "</s>", "<unk>", "<mask>"], {"start": 0, "pad": 1, "end": 2}),
    ],
)
def test_vocab_json_and_merges_are_read_as_gpt2_and_roberta_read_them(tmp_path: Path, kind, names, roles):
    folder = byte_level(tmp_path, names)
    oracle = getattr(transformers(), kind).from_pretrained(folder)
    for source in (folder, folder / "vocab.json", folder / "merges.txt"):
        ours = open_tokenizer(source)
        assert roles.items() <= ours.specials.items()
        for text in SENTENCES:
            tokens = ours.encode(text)
            assert tokens == oracle.encode(text, add_special_tokens=False)
            assert ours.decode(tokens) == oracle.decode(
                tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )


def test_unigram_is_read_without_its_padding_and_truncation(tmp_path: Path):
    oracle = transformers().PreTrainedTokenizerFast(tokenizer_file=str(unigram(tmp_path) / "tokenizer.json"))
    ours = open_tokenizer(tmp_path)
    assert ours.specials == {"pad": 0, "end": 1, "unknown": 2}
    for text in SENTENCES:
        assert ours.encode(text) == oracle.encode(text, add_special_tokens=False)
    assert ours.decode(ours.encode(SENTENCES[0])) == SENTENCES[0]
    assert len(ours.encode(SENTENCES[0])) > 5


def test_special_tokens_with_names_of_their_own_are_found_in_the_file_beside_and_kept(tmp_path: Path):
    byte_level(tmp_path, ["<nothing>", "<halt>"])
    named = {"pad_token": {"content": "<nothing>", "lstrip": False}, "eos_token": "<halt>", "mask_token": None}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(named))
    ours = open_tokenizer(tmp_path)
    assert ours.specials == {"pad": 0, "end": 1}
    ours.save(tmp_path / "saved")
    again = open_tokenizer(tmp_path / "saved")
    assert (again.specials, again.vocab_size) == (ours.specials, ours.vocab_size)
    assert again.decode([0, *again.encode("fox"), 1]) == "fox"


@cache
def trained() -> Subwords:
    return train_bpe(lines(), 500, specials=("pad", "start", "end"))


TOKENIZERS: list[Callable[[], Tokenizer]] = [Bytes, lambda: bytes_for("roberta"), trained]


@pytest.mark.parametrize("make", TOKENIZERS)
@given(text=st.text())
@example("\ufeff\r\n\x00 \u2028 <|end|x <|  a  ")
def test_every_text_comes_back(make, text):
    tokenizer = make()
    tokens = tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.frame(tokens)) == text
    assert all(0 <= token < tokenizer.vocab_size for token in tokens)
    assert not set(tokens) & set(tokenizer.specials.values())


@pytest.mark.parametrize("make", TOKENIZERS)
@given(st.lists(st.integers(-1, 700), max_size=30))
def test_any_tokens_become_text(make, tokens):
    """A network may draw bytes that are no text, and numbers that its vocabulary has and the tokenizer has not."""
    assert make().decode(tokens).encode().decode() == make().decode(tokens)


@pytest.mark.parametrize("make", TOKENIZERS)
def test_bytes_that_are_no_text_and_lone_surrogates_become_a_sign_for_it(make):
    tokenizer = make()
    assert tokenizer.decode(tokenizer.encode("𐐷")[:1]) == "\ufffd"
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tokenizer.decode(tokenizer.encode("\ud83d\ude80")) == "🚀"


@given(st.binary(max_size=20))
def test_tokens_of_bytes_are_the_bytes(content):
    assert Bytes().decode(list(content)) == content.decode(errors="replace")
    assert Bytes().encode(text := content.decode(errors="replace")) == list(text.encode())


def test_bytes_are_numbered_after_the_special_tokens():
    tokenizer = Bytes(("pad", "end"))
    assert (tokenizer.vocab_size, tokenizer.specials) == (258, {"pad": 0, "end": 1})
    assert tokenizer.encode("AB") == [67, 68]
    assert tokenizer.frame([67]) == [67, 1]
    assert Bytes(("start", "pad", "end")).frame([9]) == [0, 9, 2]


@pytest.mark.parametrize("family", [*SPECIALS, "gpt"])
@pytest.mark.parametrize("make", [bytes_for, lambda family: train_bpe(lines(), 300, specials=SPECIALS.get(family, ()))])
def test_what_is_saved_is_what_is_opened(tmp_path: Path, family, make):
    ours = make(family)
    ours.save(tmp_path / "model")
    again = open_tokenizer(tmp_path / "model")
    assert type(again) is type(ours)
    assert (again.specials, again.vocab_size) == (ours.specials, ours.vocab_size)
    assert again.fingerprint == ours.fingerprint
    for text in SENTENCES:
        assert again.encode(text) == ours.encode(text)
    assert ours.specials == {role: i for i, role in enumerate(SPECIALS.get(family, ()))}


def test_training_is_repeatable_and_shortens_text():
    once, again = (train_bpe(lines(), 600) for _ in range(2))
    assert once.to_json() == again.to_json()
    text = "\n".join(lines())
    assert once.vocab_size == 600
    assert len(once.encode(text)) < 0.5 * len(text.encode())


def test_little_text_gives_a_small_vocabulary():
    assert train_bpe(["aaab aaab"], 1000).vocab_size < 270


def test_source_code_comes_back_whole():
    """Through a vocabulary learnt from another text."""
    for _, text in read_text("python-source").test[:2]:
        assert trained().decode(trained().encode(text)) == text


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("tokenizer.json", "{", r"tokenizer.json is not whole JSON"),
        ("tokenizer.json", "[]", "is not a JSON object"),
        ("tokenizer.json", "{}", "has no model"),
        ("tokenizer.json", b"\xff\xfe", r"is not UTF-8 \(byte 0\)"),
        ("tokenizer.json", {"model": {"type": "WordPeice"}}, "unknown kind of tokenizer 'WordPeice'.*'WordPiece'"),
        ("tokenizer.json", {"model": {"type": "BPE"}}, "cannot be read as a tokenizer"),
        ("tokenizer.json", {"fieldguide": "words", "specials": []}, "is not a tokenizer of ours"),
        ("tokenizer.json", {"fieldguide": "bytes", "specials": [], "more": 1}, "is not a tokenizer of ours"),
        ("tokenizer.json", {"fieldguide": "bytes", "specials": ["pda"]}, "tokenizer.json: unknown role .*'pad'"),
        ("vocab.txt", "one\ntwo\n", "no WordPiece vocabulary"),
        ("vocab.json", {"a": 0}, "no merges.txt in"),
        ("merges.txt", "a b", "no vocab.json in"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, file, content, said):
    as_bytes = content if isinstance(content, bytes) else None
    text = content if isinstance(content, str) else json.dumps(content) if as_bytes is None else ""
    (tmp_path / file).write_bytes(as_bytes or text.encode())
    for source in (tmp_path, tmp_path / file):
        with pytest.raises(FieldguideError, match=said) as error:
            open_tokenizer(source)
        assert "\n" not in str(error.value)
        assert str(tmp_path) in str(error.value)


def test_damaged_pairs_and_words_of_other_kinds_are_named(tmp_path: Path):
    byte_level(tmp_path, [])
    (tmp_path / "merges.txt").write_text("one two three\n")
    with pytest.raises(DamagedFile, match=r"vocab.json cannot be read as a tokenizer"):
        open_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text('{"the</w>": 0}')
    with pytest.raises(FieldguideError, match="is not byte-level BPE"):
        open_tokenizer(tmp_path)


def test_a_vocabulary_that_cannot_say_unknown_says_so(tmp_path: Path):
    tokenizers.Tokenizer(models.Unigram([("a", -1.0)])).save(str(tmp_path / "tokenizer.json"))  # pyright: ignore[reportCallIssue]
    assert open_tokenizer(tmp_path).encode("a") == [0]
    with pytest.raises(FieldguideError, match="the tokenizer cannot read 'b'"):
        open_tokenizer(tmp_path).encode("b")


def test_missing_files_and_wrong_vocabularies_are_named(tmp_path: Path):
    with pytest.raises(FieldguideError, match=r"looked for tokenizer.json, vocab.txt, and vocab.json with merges.txt"):
        open_tokenizer(tmp_path)
    Bytes().save(tmp_path)
    with pytest.raises(FieldguideError, match=r"did you mean 'tokenizer.json'"):
        open_tokenizer(tmp_path / "tokeniser.json")
    (tmp_path / "spiece.model").write_bytes(b"")
    with pytest.raises(FieldguideError, match=r"is not a tokenizer; give tokenizer\.json"):
        open_tokenizer(tmp_path / "spiece.model")
    with pytest.raises(FieldguideError, match=r"vocab_size is 257; .* 2 special tokens needs at least 258"):
        train_bpe(lines(), 257, specials=("pad", "end"))
    with pytest.raises(FieldguideError, match="unknown role of a special token 'ned'; did you mean 'end'"):
        Bytes(("ned",))
    with pytest.raises(FieldguideError, match="named twice: pad, pad"):
        Bytes(("pad", "pad"))
