"""What turns text into numbers and back: plain bytes, or the subwords of a public or a freshly trained vocabulary."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from fieldguide.bounded import MB, read_json, read_plain
from fieldguide.data.documents import readable
from fieldguide.data.tokenizer_parts import MOST_TOKENS, flaw
from fieldguide.errors import DamagedFile, FieldguideError, did_you_mean, unknown
from fieldguide.shapes import Int, Tensor

FILE = "tokenizer.json"

ROLES = {
    "pad": ("[PAD]", "<pad>", "<|pad|>"),
    "start": ("[CLS]", "<s>", "<|start|>"),
    "end": ("[SEP]", "</s>", "<|endoftext|>", "<|end|>"),
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
    "unknown": ("[UNK]", "<unk>"),
}
"""What special tokens are for, and the names they go by."""

SPECIALS: Mapping[str, tuple[str, ...]] = {
    "bert": ("pad", "start", "end", "mask"),
    "distilbert": ("pad", "start", "end", "mask"),
    "linformer": ("pad", "start", "end", "mask"),
    "performer": ("pad", "start", "end", "mask"),
    "roberta": ("start", "pad", "end", "mask"),
    "t5": ("pad", "end"),
    "transformer": ("pad", "end"),
}
"""The special tokens of a new vocabulary, in the places where each family's config expects them; others need none."""

_MAPS = ("special_tokens_map.json", "tokenizer_config.json")
_KEYS = {
    "pad": ("pad_token",),
    "start": ("cls_token", "bos_token"),
    "end": ("sep_token", "eos_token"),
    "mask": ("mask_token",),
    "unknown": ("unk_token",),
}
"""What the files beside a public ``tokenizer.json`` call the roles."""
_KINDS = ("BPE", "Unigram", "WordLevel", "WordPiece")
_FILE_LIMIT = 64 * MB
_NO_UTF8 = 255
"""A byte that no UTF-8 text holds."""


class Tokenizer(ABC):
    """Text to token numbers and back."""

    vocab_size: int
    """Token numbers lie below this."""
    specials: Mapping[str, int]
    """The token of each role that there is one for: pad, start, end, mask, unknown."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without any before or after it; a lone surrogate is read as U+FFFD."""

    @abstractmethod
    def decode(self, tokens: Iterable[int]) -> str:
        """The text of tokens, without the special ones; bytes that are no UTF-8 become U+FFFD."""

    @abstractmethod
    def token_bytes(self) -> list[int]:
        """How many bytes of UTF-8 each token stands for; special tokens stand for none."""

    @abstractmethod
    def to_json(self) -> str:
        """All that ``open_tokenizer`` needs."""

    def save(self, folder: Path) -> None:
        """Writes ``tokenizer.json`` into the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(self.to_json(), encoding="utf-8")

    def frame(self, tokens: Sequence[int]) -> list[int]:
        """``tokens`` between start and end, as far as this vocabulary has them: what an encoder reads."""
        first, last = ([self.specials[role]] if role in self.specials else [] for role in ("start", "end"))
        return [*first, *tokens, *last]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what is saved."""
        return sha256(self.to_json().encode()).hexdigest()


class Bytes(Tokenizer):
    """The bytes of a text in UTF-8, numbered from the first number after the special tokens.

    Raises ``FieldguideError`` for a role that is unknown or named twice.
    """

    def __init__(self, specials: Sequence[str] = ()):
        self.specials = {role: i for i, role in enumerate(_roles(specials))}
        self.vocab_size = 256 + len(specials)

    def encode(self, text: str) -> list[int]:
        content, first = _without_surrogates(text).encode(), len(self.specials)
        return [byte + first for byte in content] if first else list(content)

    def decode(self, tokens: Iterable[int]) -> str:
        first = len(self.specials)
        return bytes(min(token - first, _NO_UTF8) for token in tokens if token >= first).decode(errors="replace")

    def token_bytes(self) -> list[int]:
        return [0] * len(self.specials) + [1] * 256

    def to_json(self) -> str:
        return json.dumps({"fieldguide": "bytes", "specials": list(self.specials)})


class Subwords(Tokenizer):
    """A vocabulary of the ``tokenizers`` library.

    ``specials`` names the token of each role; roles not given follow from the names in ``ROLES``. A special token's
    name inside a text is that token, as in "Paris is the [MASK] of France." Raises ``FieldguideError`` for a vocabulary
    larger than any.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, specials: Mapping[str, str] | None = None):
        known = tokenizer.get_vocab()
        names = {role: [*filter(None, [(specials or {}).get(role)]), *ROLES[role]] for role in ROLES}
        found = {role: next((name for name in names[role] if name in known), None) for role in ROLES}
        self.specials = {role: known[name] for role, name in found.items() if name}
        self._names = {role: name for role, name in found.items() if name}
        added = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
        tokenizer.add_special_tokens(sorted({*self._names.values()} - added))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer = tokenizer
        self.vocab_size = max(known.values(), default=-1) + 1
        if self.vocab_size > MOST_TOKENS:
            raise FieldguideError(f"a vocabulary of {self.vocab_size:,} tokens; at most {MOST_TOKENS:,} can be read")

    def encode(self, text: str) -> list[int]:
        try:
            return self.tokenizer.encode(_without_surrogates(text), add_special_tokens=False).ids
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # the library raises Exception itself, and its panics are not even that
            raise FieldguideError(
                f"the tokenizer cannot read {text[:40]!r} ({' '.join(str(error).split())})"
            ) from error

    def decode(self, tokens: Iterable[int]) -> str:
        return self.tokenizer.decode([token for token in tokens if token >= 0], skip_special_tokens=True)

    def token_bytes(self) -> list[int]:
        names = {number: name for name, number in self.tokenizer.get_vocab().items()}
        special = {*self.specials.values()}
        # A byte-level vocabulary writes each byte as one letter; others write text.
        letters = isinstance(self.tokenizer.decoder, decoders.ByteLevel)
        texts = (names.get(i, "") if letters else self.decode([i]) for i in range(self.vocab_size))
        return [0 if i in special else len(text if letters else text.encode()) for i, text in enumerate(texts)]

    def to_json(self) -> str:
        return self.tokenizer.to_str()

    def save(self, folder: Path) -> None:
        """Writes ``tokenizer.json`` and, with the roles of the special tokens, ``special_tokens_map.json``."""
        super().save(folder)
        named = {key: name for role, name in self._names.items() for key in _KEYS[role]}
        (folder / _MAPS[0]).write_text(json.dumps(named, indent=2), encoding="utf-8")


def row_of(tokens: Iterable[int]) -> Int[Tensor, " n"]:
    """Tokens as a tensor; through numpy, which reads millions of them several times faster."""
    return torch.from_numpy(np.fromiter(tokens, np.int64))


def bytes_for(family: str) -> Bytes:
    """Bytes with the special tokens that a family of models needs; see ``SPECIALS``."""
    return Bytes(SPECIALS.get(family, ()))


def train_bpe(
    texts: Iterable[str], vocab_size: int, *, specials: Sequence[str] = (), progress: bool = False
) -> Subwords:
    """A byte-level BPE vocabulary learnt from texts (Sennrich et al. 2016, §3.2; on bytes, Radford et al. 2019, §2.2).

    ``specials`` are roles; their tokens take the numbers 0, 1, … and the 256 bytes the next. Any text can be encoded
    and comes back unchanged. Equal texts give equal vocabularies; little text may give fewer than ``vocab_size``.
    ``progress`` draws a bar on the error stream. Raises ``FieldguideError`` for a vocabulary too small for the bytes.
    """
    names = [f"<|{role}|>" for role in _roles(specials)]
    least = 256 + len(names)
    if vocab_size < least:
        raise FieldguideError(
            f"vocab_size is {vocab_size}; byte-level BPE with {len(names)} special tokens needs at least {least}"
        )
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=names,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=progress,
    )
    tokenizer.train_from_iterator(map(_without_surrogates, texts), trainer)
    return Subwords(tokenizer)


def open_tokenizer(source: Path | str) -> Tokenizer:
    """The tokenizer in a file, or in a folder of ours or of a public checkpoint; nothing in it is executed.

    Read are ``tokenizer.json`` (WordPiece, BPE, sentencepiece's Unigram, or our bytes), ``vocab.txt`` (WordPiece as
    BERT) and ``vocab.json`` with ``merges.txt`` (byte-level BPE as GPT-2 and RoBERTa), in this order.
    ``special_tokens_map.json`` and ``tokenizer_config.json`` beside them name special tokens and BERT's case.

    Raises ``FieldguideError`` when there is none or its kind is unknown, ``DamagedFile`` when it cannot be read.
    """
    with readable(source) as path:
        return _opened(path)


def _opened(path: Path) -> Tokenizer:
    if path.is_dir():
        found = next((path / name for name in _READERS if (path / name).is_file()), None)
        if found is None:
            raise FieldguideError(
                f"no tokenizer in {path}; looked for {FILE}, vocab.txt, and vocab.json with merges.txt"
            )
        return _READERS[found.name](found)
    if not path.is_file():
        near = did_you_mean(path.name, [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else [])
        raise FieldguideError(f"no tokenizer file {str(path)!r}{near}")
    if path.name not in _READERS and path.suffix not in _SUFFIXES:
        raise FieldguideError(f"{path} is not a tokenizer; give {FILE}, vocab.txt or vocab.json with merges.txt")
    return (_READERS.get(path.name) or _SUFFIXES[path.suffix])(path)


def _read_json_tokenizer(file: Path) -> Tokenizer:
    content = _read_json(file)
    if "fieldguide" in content:
        return _read_bytes(content, file)
    model = content.get("model")
    if not isinstance(model, dict):
        raise DamagedFile(f"{file} holds no tokenizer: it has no model")
    kind = model.get("type")
    if kind is not None and kind not in _KINDS:  # old files leave it out
        raise unknown("kind of tokenizer", str(kind), _KINDS, f"{file}; known: {', '.join(_KINDS)}")
    if wrong := flaw(content):
        raise DamagedFile(f"{file} is refused: {wrong}")
    tokenizer = _built(file, lambda: tokenizers.Tokenizer.from_str(json.dumps(content)))
    return Subwords(tokenizer, _named(file.parent))


def _read_bytes(content: Mapping[str, Any], file: Path) -> Bytes:
    specials = content.get("specials")
    ours = set(content) == {"fieldguide", "specials"} and content["fieldguide"] == "bytes"
    if not ours or not isinstance(specials, list) or not all(isinstance(name, str) for name in specials):
        raise DamagedFile(f'{file} is not a tokenizer of ours; expected {{"fieldguide": "bytes", "specials": […]}}')
    try:
        return Bytes(specials)
    except FieldguideError as error:
        raise DamagedFile(f"{file}: {error}") from error


def _read_wordpiece(file: Path) -> Subwords:
    words = read_tokenizer_text(file).removesuffix("\n").split("\n")  # a word may hold other line ends
    vocabulary = {word: i for i, word in enumerate(words)}
    if "[UNK]" not in vocabulary:
        raise FieldguideError(f"{file} is no WordPiece vocabulary: one token a line, among them [UNK]")
    config = _beside(file.parent / _MAPS[1])
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=config.get("do_lower_case", True) is not False,
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=config.get("tokenize_chinese_chars", True) is not False,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return Subwords(tokenizer, _named(file.parent))


def _read_byte_level(file: Path) -> Subwords:
    """``vocab.json`` and ``merges.txt``, of which ``file`` is either."""
    vocab, merges = file.with_name("vocab.json"), file.with_name("merges.txt")
    for part in (vocab, merges):
        if not part.is_file():
            raise FieldguideError(f"no {part.name} in {part.parent}; byte-level BPE needs vocab.json and merges.txt")
    numbers = _read_json(vocab)
    if any(name.endswith("</w>") for name in numbers):
        raise FieldguideError(f"{vocab} is not byte-level BPE (its words end in </w>); give a {FILE}")
    lines = [line for line in read_tokenizer_text(merges).split("\n") if line and not line.startswith("#version")]
    pairs = [tuple(line.split(" ")) for line in lines]
    tokenizer = _built(vocab, lambda: tokenizers.Tokenizer(models.BPE(numbers, pairs)))  # pyright: ignore[reportArgumentType]  (their stub asks for a list of pairs, the library checks it)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return Subwords(tokenizer, _named(file.parent))


_READERS: Mapping[str, Callable[[Path], Tokenizer]] = {
    FILE: _read_json_tokenizer,
    "vocab.txt": _read_wordpiece,
    "vocab.json": _read_byte_level,
    "merges.txt": _read_byte_level,
}
_SUFFIXES: Mapping[str, Callable[[Path], Tokenizer]] = {".json": _read_json_tokenizer, ".txt": _read_wordpiece}


def _built(file: Path, build: Callable[[], tokenizers.Tokenizer]) -> tokenizers.Tokenizer:
    try:
        return build()
    except Exception as error:  # the library raises Exception itself
        raise DamagedFile(f"{file} cannot be read as a tokenizer ({' '.join(str(error).split())})") from error


def _named(folder: Path) -> dict[str, str]:
    """The special token of each role, as the files beside a tokenizer name it."""
    named: dict[str, str] = {}
    for content in (_beside(folder / name) for name in _MAPS):
        for role, keys in _KEYS.items():
            values = (content.get(key) for key in keys)
            names = (value.get("content") if isinstance(value, dict) else value for value in values)
            name = next((name for name in names if isinstance(name, str)), None)
            if name:
                named.setdefault(role, name)
    return named


def _beside(file: Path) -> dict[str, Any]:
    return _read_json(file) if file.is_file() else {}


def _read_json(file: Path) -> dict[str, Any]:
    content = read_json(file, _FILE_LIMIT)
    if not isinstance(content, dict):
        raise DamagedFile(f"{file} is not a JSON object")
    return content


def read_tokenizer_text(file: Path) -> str:
    """A file of a tokenizer as text, its line ends those of Unix.

    Raises ``FieldguideError`` when it cannot be read, ``DamagedFile`` when it is no file, too large or not UTF-8.
    """
    try:
        return read_plain(file, _FILE_LIMIT).decode().replace("\r\n", "\n")
    except OSError as error:
        raise FieldguideError(f"{file} cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{file} is not UTF-8 (byte {error.start})") from error


def _roles(specials: Sequence[str]) -> Sequence[str]:
    for role in specials:
        if role not in ROLES:
            raise unknown("role of a special token", role, ROLES)
    if len(set(specials)) < len(specials):
        raise FieldguideError(f"a special token is named twice: {', '.join(specials)}")
    return specials


def _without_surrogates(text: str) -> str:
    """Text that can be written as UTF-8: halves of a pair are joined, others replaced."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
