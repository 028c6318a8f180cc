"""What the kinds of text have in common: which tokenizer, how long a text may be, and a trained network with both."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from fieldguide.cli.job import Job
from fieldguide.cli.tasks.task import Facts, Task, Trained
from fieldguide.data.tokenizer import (
    SPECIALS,
    Bytes,
    Tokenizer,
    bytes_for,
    open_tokenizer,
    read_tokenizer_text,
    train_bpe,
)
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model, load_model, read_config, save_model
from fieldguide.models.store import TOKENIZER
from fieldguide.train.run import RunFolder
from fieldguide.weights.source import HUB

Kind = TypeVar("Kind", bound="TrainedText")

USUAL = 128
"""Tokens of a window where neither the user nor the network's table of positions says fewer."""


@dataclass(frozen=True, kw_only=True)
class TextTask(Task):
    """A kind of task on text."""

    counted: ClassVar[str]
    """What the data are counted in."""
    options: ClassVar[frozenset[str]] = frozenset({"tokenizer", "length", "on_long", "head"})

    tokenizer: Tokenizer
    length: int | None
    """Tokens that a text may have; None where the network reads any number."""
    begins: bool
    """Whether training begins here, and with the job's weights if it has some; a checkpoint brings its own."""

    def decided(self) -> Mapping[str, Any]:
        """The fields of the network's config that these data decide, besides vocabulary and length."""
        return {}

    def network(self) -> nn.Module:
        job, decided = self.job, dict(self.decided())
        if job.has("max_len") and self.length and self.length > job.number("max_len", 0):
            decided["max_len"] = self.length
        if self.begins and job.weights:
            model = create_model(job.model, job.weights, **decided | dict(job.overrides))
        else:
            model = job.network(vocab_size=self.tokenizer.vocab_size, **decided)
        require_same_vocabulary(self.tokenizer, model, job.weights or job.model)
        return model

    def facts(self) -> Facts:
        parts = ((part, len(getattr(self.data, part))) for part in ("train", "val", "test"))
        counts = "{:,} training, {:,} validation and {:,} test ".format(*(count for _, count in parts))
        return {"data": f"{self.data.name}: {counts}{self.counted}", "tokens": said(self.tokenizer)}  # pyright: ignore

    def preparation(self) -> dict[str, Any]:
        return {"kind": "text", "classes": None, "length": self.length}

    def remember(self, run: RunFolder) -> None:
        super().remember(run)
        self.tokenizer.save(run.path)

    def save(self, model: nn.Module, run: RunFolder) -> None:
        there = (run.path / name for name in sorted(TOKENIZER) if (run.path / name).exists())
        files = {file.name: read_tokenizer_text(file) for file in there}
        save_model(model, run.model, extra={"data": self.preparation()}, tokenizer=files)


@dataclass(frozen=True, kw_only=True)
class TrainedText(Trained):
    """A network for text in evaluation mode, with its tokenizer."""

    model: nn.Module
    tokenizer: Tokenizer
    length: int | None
    classes: tuple[str, ...]

    @classmethod
    def of(cls: type[Kind], run: RunFolder, device: str = "cpu") -> Kind:
        data, tokenizer = read_config(run.model).data, open_tokenizer(run.model)
        assert data
        model = load_model(run.model).to(device)
        require_same_vocabulary(tokenizer, model, str(run.model))
        return cls(model=model, tokenizer=tokenizer, length=data["length"], classes=tuple(data["classes"] or ()))

    @property
    def end(self) -> int | None:
        """The token after which a text is complete."""
        return self.tokenizer.specials.get("end")

    def prompt(self, text: str) -> list[int]:
        """The tokens that a network which writes reads first."""
        return self.tokenizer.encode(text)

    def decoded(self, tokens: Sequence[int]) -> str:
        """The text of tokens that were written, without what follows its end."""
        row = list(tokens)
        return self.tokenizer.decode(row[: row.index(self.end)] if self.end in row else row)

    def batch(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Texts as an encoder reads them, ``(tokens (b, n), keep (b, n))``; what is too long is cut."""
        room = None if self.length is None else self.length - len(self.tokenizer.frame([]))
        rows = [self.tokenizer.frame(self.tokenizer.encode(text)[:room]) for text in texts]
        if not all(rows):
            raise FieldguideError("a text is empty; give at least one character")
        longest = max(map(len, rows))
        pad = self.tokenizer.specials.get("pad", 0)
        tokens = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=self.device)
        keep = torch.tensor([[i < len(row) for i in range(longest)] for row in rows], device=self.device)
        return tokens, keep


def groups(texts: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """The texts in their order, so many at a time."""
    return (texts[start : start + size] for start in range(0, len(texts), size))


def choose_tokenizer(job: Job, run: RunFolder | None, texts: Callable[[], Iterable[str]]) -> Tokenizer:
    """That of a run under way; else the one asked for; else that of the weights, or bytes."""
    if run is not None:
        return open_tokenizer(run.path)
    match (job.tokenizer or "").partition(":"):
        case ("bytes", "", ""):
            return bytes_for(job.row.family)
        case ("bpe", ":", size) if size.isdecimal():
            return train_bpe(texts(), int(size), specials=_specials(job), progress=sys.stderr.isatty())
        case ("bpe", *_):
            raise FieldguideError(f"--tokenizer {job.tokenizer} does not say how many tokens; write bpe:8000")
        case ("", *_):
            return _tokenizer_of_weights(job.weights) if job.weights else bytes_for(job.row.family)
        case _:
            return open_tokenizer(Path(job.tokenizer or ""))


def _specials(job: Job) -> Sequence[str]:
    """A vocabulary for running text needs at least what tells documents apart."""
    return SPECIALS.get(job.row.family, ("end",))


def _tokenizer_of_weights(weights: str) -> Tokenizer:
    folder = Path(weights) if Path(weights).is_dir() else Path(weights).parent
    if weights.startswith(HUB):
        raise FieldguideError(f"{weights} brings no tokenizer; name its file with --tokenizer")
    try:
        return open_tokenizer(folder)
    except FieldguideError as error:
        raise FieldguideError(f"{error}; the weights need theirs, name it with --tokenizer") from None


def choose_length(job: Job) -> int:
    """The user's, else as many as the network's table of positions has, up to ``USUAL``."""
    if job.length is not None and job.length < 2:
        raise FieldguideError(f"--length {job.length} is too short; choose at least 2")
    most = job.number("max_len", None)
    if job.weights and most is not None and job.length is not None and job.length > most:
        raise FieldguideError(f"--length {job.length} is more than the {most} tokens that the weights have places for")
    return job.length or min(most or USUAL, USUAL)


def require_same_vocabulary(tokenizer: Tokenizer, model: nn.Module, where: str) -> None:
    """A public network may have spare rows; a token beyond its table is another network's."""
    size: int = model.config.vocab_size  # pyright: ignore
    if tokenizer.vocab_size > size:
        raise FieldguideError(
            f"the tokenizer has {tokenizer.vocab_size:,} tokens, but {where} knows {size:,}; "
            "take the tokenizer that belongs to these weights"
        )


def said(tokenizer: Tokenizer) -> str:
    kind = "bytes" if isinstance(tokenizer, Bytes) else "subwords"
    return f"{kind}, a vocabulary of {tokenizer.vocab_size:,}"
