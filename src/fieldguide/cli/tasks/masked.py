"""Running text for encoders: hidden tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fieldguide.cli.job import Job, source
from fieldguide.cli.tasks.classes import ranking
from fieldguide.cli.tasks.task import begins
from fieldguide.cli.tasks.text import TextTask, TrainedText, choose_length, choose_tokenizer
from fieldguide.data.buckets import Buckets
from fieldguide.data.masked import MaskedTexts
from fieldguide.data.texts import read_text
from fieldguide.data.tokenizer import Tokenizer
from fieldguide.errors import FieldguideError
from fieldguide.objectives import MaskedToken
from fieldguide.report import Examples
from fieldguide.shapes import Tensor
from fieldguide.train.evaluation import evaluate
from fieldguide.train.pieces import as_many_as_fit
from fieldguide.train.recipe import Recipe
from fieldguide.train.run import RunFolder

BATCH = 32
MASK = "[MASK]"
"""What stands for a hidden token in a user's text."""


@dataclass(frozen=True, kw_only=True)
class Masked(TextTask):
    """Running text, for tokens that were hidden."""

    purpose = (
        "it learns to find masked tokens: a text file, a folder of them, or python-source; with labels, their class"
    )
    unit = "tokens"
    counted = "pieces of text"
    embedded = "python-source"
    options = frozenset({"tokenizer", "length", "head"})

    data: MaskedTexts

    @classmethod
    def suits(cls, job: Job) -> bool:
        return job.head == "masked_lm" or (job.head is None and not looks_labelled(job.data))

    @classmethod
    def open(cls, job: Job, run: RunFolder | None) -> "Masked":
        texts, length = read_text(job.data), choose_length(job)
        tokenizer = choose_tokenizer(job, run, lambda: (document.text for document in texts.train))
        return cls(
            job=job, data=MaskedTexts(texts, tokenizer, length), tokenizer=tokenizer, length=length, begins=begins(run)
        )

    def decided(self) -> Mapping[str, Any]:
        return {"head": "masked_lm"}

    def objective(self, recipe: Recipe) -> MaskedToken:
        return masked_token(self.tokenizer, recipe.label_smoothing)

    def examine(self, run: RunFolder, device: str) -> Mapping[str, float]:
        """Pieces of the test part with one token hidden, and what the network puts there."""
        trained = Finder.of(run, device)
        chosen = torch.linspace(0, len(self.data.test) - 1, min(8, len(self.data.test))).long().tolist()
        Examples(
            title="What it finds",
            story="Pieces of the test part with one token hidden, what stood there, and what the network puts there.",
            columns=("text", "hidden", "found"),
            rows=[trained.example([int(token) for token in self.data.test[i][0]]) for i in chosen],  # pyright: ignore
        ).save(run.path)
        return {}

    def next_command(self, run: str) -> str:
        return f'fieldguide predict {run} "some text with {MASK}"'

    @classmethod
    def trained(cls, run: RunFolder, device: str) -> "Finder":
        return Finder.of(run, device)

    @classmethod
    def evaluate(cls, run: RunFolder, data: str | None, device: str, on_bad_file: str) -> dict[str, Any]:
        trained, job = Finder.of(run, device), Job.recall(run)
        texts = MaskedTexts(
            read_text(source(data) if data else job.data), trained.tokenizer, trained.length or choose_length(job)
        )
        own = data is None or source(data) == job.data
        if own and texts.fingerprint != job.fingerprint:
            raise FieldguideError(f"the text at {job.data} has changed since the run; name another with --data")
        pieces = texts.test if own else [*texts.train, *texts.val, *texts.test]

        def figures(size: int) -> dict[str, float]:
            feed = Buckets(pieces, size, shuffle=False, pad=texts.pad)
            return evaluate(trained.model, feed, masked_token(trained.tokenizer, 0.0).metrics())

        tokens = sum(len(piece[0]) for piece in pieces)  # pyright: ignore[reportArgumentType]
        return {"tokens": tokens, **as_many_as_fit(BATCH, figures)}


def looks_labelled(data: str) -> bool:
    """Tables of text and label say so by their suffix; in folders both kinds look alike."""
    return data == "python-lines" or data.lower().endswith((".csv", ".tsv", ".jsonl", ".ndjson"))


def masked_token(tokenizer: Tokenizer, label_smoothing: float) -> MaskedToken:
    if "mask" not in tokenizer.specials:
        raise FieldguideError("the tokenizer has no token for what is hidden; give one with a mask token")
    first = max(tokenizer.specials.values()) + 1
    return MaskedToken(
        mask_token=tokenizer.specials["mask"],
        vocab_size=tokenizer.vocab_size,
        first_real=first if first < tokenizer.vocab_size // 2 else 0,  # of public vocabularies, some stand at the end
        label_smoothing=label_smoothing,
    )


class Finder(TrainedText):
    """An encoder that finds hidden tokens."""

    def predict(self, inputs: Sequence[str], top: int) -> list[dict[str, Any]]:
        """For the first ``[MASK]`` of each text the likeliest tokens."""
        if not inputs or any(MASK not in text for text in inputs):
            raise FieldguideError(f'predict needs texts with {MASK} in them: fieldguide predict RUN "print({MASK})"')
        return [{"text": text, "classes": self._fill(text, top)} for text in inputs]

    def _fill(self, text: str, top: int) -> list[dict[str, Any]]:
        before, after = (self.tokenizer.encode(part) for part in text.split(MASK, 1))
        mask = self.tokenizer.specials["mask"]
        chances, chosen = self._chances([*before, mask, *after]).topk(top)
        return [
            {"name": repr(self.tokenizer.decode([token])), "probability": chance}
            for token, chance in zip(chosen.tolist(), chances.tolist(), strict=True)
        ]

    @torch.inference_mode()
    def _chances(self, tokens: Sequence[int]) -> Tensor:
        framed = self.tokenizer.frame(tokens)
        if self.length is not None and len(framed) > self.length:
            raise FieldguideError(f"the text has {len(framed)} tokens, but the network learned with {self.length}")
        logits = self.model(torch.tensor([framed], device=self.device))[0]
        return logits[framed.index(self.tokenizer.specials["mask"])].float().softmax(0)

    def example(self, piece: list[int]) -> tuple[str, str, str]:
        """A piece with its middle token hidden, the token, and what is found in its place."""
        place, mask = len(piece) // 2, self.tokenizer.specials["mask"]
        hidden = piece[place]
        with torch.inference_mode():
            tokens = torch.tensor([[*piece[:place], mask, *piece[place + 1 :]]], device=self.device)
            found = int(self.model(tokens)[0, place].argmax())
        text = self.tokenizer.decode(piece[:place]) + MASK + self.tokenizer.decode(piece[place + 1 :])
        return text, repr(self.tokenizer.decode([hidden])), repr(self.tokenizer.decode([found]))

    def shown(self, answer: Mapping[str, Any]) -> str:
        return "\n".join([answer["text"], *ranking(answer["classes"])])
