"""Running text for language models: the next token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fieldguide.cli.job import Job, source
from fieldguide.cli.tasks.task import begins
from fieldguide.cli.tasks.text import TextTask, TrainedText, choose_length, choose_tokenizer
from fieldguide.data.streams import TextStream
from fieldguide.data.texts import read_text
from fieldguide.data.windows import TokenWindows
from fieldguide.errors import FieldguideError
from fieldguide.objectives import NextToken
from fieldguide.report import Examples
from fieldguide.shapes import Tensor
from fieldguide.train.evaluation import evaluate
from fieldguide.train.pieces import as_many_as_fit
from fieldguide.train.recipe import Recipe
from fieldguide.train.run import RunFolder

BATCH = 32
SHOWN = 200
"""New tokens of an example in the report, where the network has room for them."""


@dataclass(frozen=True, kw_only=True)
class Language(TextTask):
    """Running text, for the next token."""

    purpose = "it learns to continue text: a file, a folder of text files, or python-source"
    unit = "tokens"
    counted = "tokens"
    embedded = "python-source"
    options = frozenset({"tokenizer", "length"})

    data: TextStream

    @classmethod
    def open(cls, job: Job, run: RunFolder | None) -> "Language":
        texts, length = read_text(job.data), choose_length(job)
        tokenizer = choose_tokenizer(job, run, lambda: (document.text for document in texts.train))
        return cls(
            job=job, data=TextStream(texts, tokenizer, length), tokenizer=tokenizer, length=length, begins=begins(run)
        )

    def objective(self, recipe: Recipe) -> NextToken:
        return NextToken(recipe.label_smoothing, self.tokenizer.token_bytes())

    def examine(self, run: RunFolder, device: str) -> Mapping[str, float]:
        """The network writes on where pieces of the test part end."""
        trained = Writer.of(run, device)
        half = (self.length or 0) // 2
        config: Any = trained.model.config
        most = min(SHOWN, config.max_len - half)
        starts = torch.linspace(0, max(0, len(self.data.test) - 2 * half), 4).long().tolist()
        rows = [self._example(trained, self.data.test[at : at + half], most) for at in starts]
        Examples(
            title="What it writes",
            story="Pieces of the test part, and how the network goes on at temperature 0.8.",
            columns=("text", "continued"),
            rows=rows,
        ).save(run.path)
        return {}

    def _example(self, trained: "Writer", tokens: Tensor, most: int) -> tuple[str, str]:
        generator = torch.Generator(trained.device).manual_seed(0)
        generate: Any = trained.model.generate
        new = generate(
            tokens[None].to(trained.device), max_new_tokens=most, temperature=0.8, top_p=0.95, generator=generator
        )
        return trained.tokenizer.decode(tokens.tolist()), trained.tokenizer.decode(new[0].tolist())

    def next_command(self, run: str) -> str:
        return f'fieldguide generate {run} --prompt "…" --stream'

    @classmethod
    def trained(cls, run: RunFolder, device: str) -> "Writer":
        return Writer.of(run, device)

    @classmethod
    def evaluate(cls, run: RunFolder, data: str | None, device: str, on_bad_file: str) -> dict[str, Any]:
        trained, job = Writer.of(run, device), Job.recall(run)
        texts = read_text(source(data) if data else job.data)
        stream = TextStream(texts, trained.tokenizer, trained.length or choose_length(job))
        if data is None or source(data) == job.data:
            if stream.fingerprint != job.fingerprint:
                raise FieldguideError(f"the text at {job.data} has changed since the run; name another with --data")
            tokens = stream.test
        else:
            tokens = torch.cat([stream.train, stream.val, stream.test])
        objective = NextToken(token_bytes=trained.tokenizer.token_bytes())

        def figures(size: int) -> dict[str, float]:
            feed = TokenWindows(tokens, stream.length, size, shuffle=False)
            return evaluate(trained.model, feed, objective.metrics())

        return {"tokens": len(tokens), **as_many_as_fit(BATCH, figures)}


class Writer(TrainedText):
    """A language model, which answers by writing on."""

    def predict(self, inputs: Sequence[str], top: int) -> list[dict[str, Any]]:
        """The likeliest next tokens of each text."""
        if not inputs:
            raise FieldguideError("predict needs texts: fieldguide predict RUN TEXT…; to write on: fieldguide generate")
        return [{"text": text, "next": self._next(text, top)} for text in inputs]

    @torch.inference_mode()
    def _next(self, text: str, top: int) -> list[dict[str, Any]]:
        tokens = self.prompt(text)[-(self.length or len(text)) :]
        if not tokens:
            raise FieldguideError("a text is empty; give at least one character")
        logits = self.model(torch.tensor([tokens], device=self.device))[0, -1]
        chances, chosen = logits.float().softmax(0).topk(top)
        return [
            {"token": self.tokenizer.decode([token]), "probability": chance}
            for token, chance in zip(chosen.tolist(), chances.tolist(), strict=True)
        ]

    def shown(self, answer: Mapping[str, Any]) -> str:
        guesses = [f"  {guess['probability']:7.2%}  {guess['token']!r}" for guess in answer["next"]]
        return "\n".join([answer["text"], *guesses])
