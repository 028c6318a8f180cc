"""Texts and their translations, for text-to-text networks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from fieldguide.blocks.decoding import TextToText, left_padded
from fieldguide.cli.job import Job, source
from fieldguide.cli.tasks.task import begins
from fieldguide.cli.tasks.text import TextTask, TrainedText, choose_length, choose_tokenizer, groups
from fieldguide.data.buckets import Sequences
from fieldguide.data.pairs import PairPart, Pairs, open_pairs, open_pairs_part
from fieldguide.errors import FieldguideError
from fieldguide.metrics import bleu, exact_match
from fieldguide.objectives import SequenceToSequence
from fieldguide.report import Examples
from fieldguide.train.pieces import as_many_as_fit
from fieldguide.train.recipe import Recipe
from fieldguide.train.run import RunFolder

BATCH = 128
MOST = 2000
"""Pairs of the test part that are translated for the report; the loss is of all."""


@dataclass(frozen=True, kw_only=True)
class Translation(TextTask):
    """Texts and what answers them."""

    purpose = "it learns to answer a text with another: SOURCE,TARGET of two aligned files, a TSV of both, or dates"
    unit = "tokens"
    counted = "pairs"
    embedded = "dates"
    options = frozenset({"tokenizer", "length", "on_long"})

    data: Sequences
    pairs: Pairs

    @classmethod
    def open(cls, job: Job, run: RunFolder | None) -> "Translation":
        pairs, length = open_pairs(job.data), choose_length(job)
        tokenizer = choose_tokenizer(job, run, lambda: [*pairs.train.sources, *pairs.train.answers])
        data = pairs.tokenized(tokenizer, length, job.on_long or "stop")
        return cls(job=job, data=data, pairs=pairs, tokenizer=tokenizer, length=length, begins=begins(run))

    def objective(self, recipe: Recipe) -> SequenceToSequence:
        return SequenceToSequence(self.job.number("start", 0), recipe.label_smoothing)

    def examine(self, run: RunFolder, device: str) -> Mapping[str, float]:
        """What the network makes of the test part's sources."""
        trained, part = Translator.of(run, device), self.pairs.test.subset(range(min(MOST, len(self.pairs.test))))
        answers = trained.answers(part.sources)
        wrong = [i for i in range(len(part)) if answers[i] != part.answers[i]]
        shown = [*wrong[:8], *range(min(8, len(part)))]
        rows = [(part.sources[i], answers[i], "✓" if answers[i] == part.answers[i] else part.answers[i]) for i in shown]
        Examples(
            title="Answers",
            story="Sources of the test part: wrong answers first, as far as there are any, then some as they come.",
            columns=("source", "answer", "expected"),
            rows=list(dict.fromkeys(rows)),
        ).save(run.path)
        return {f"test_{name}": value for name, value in compared(answers, part.answers).items()}

    def next_command(self, run: str) -> str:
        return f'fieldguide generate {run} --prompt "{self.pairs.test.sources[0]}"'

    @classmethod
    def trained(cls, run: RunFolder, device: str) -> "Translator":
        return Translator.of(run, device)

    @classmethod
    def evaluate(cls, run: RunFolder, data: str | None, device: str, on_bad_file: str) -> dict[str, Any]:
        trained = Translator.of(run, device)
        part = _evaluated(run, trained, data)
        return {"pairs": len(part), **compared(trained.answers(part.sources), part.answers)}


def compared(answers: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """The share of answers that are right to the letter, and BLEU where sacrebleu is installed."""
    further = {"bleu": bleu(answers, expected)} if find_spec("sacrebleu") else {}
    return {"exact_match": exact_match(answers, expected), **further}


def _evaluated(run: RunFolder, trained: "Translator", data: str | None) -> PairPart:
    job = Job.recall(run)
    if data is not None and source(data) != job.data:
        return open_pairs_part(source(data))
    pairs = open_pairs(job.data)
    if pairs.tokenized(trained.tokenizer, trained.length, job.on_long or "stop").fingerprint != job.fingerprint:
        raise FieldguideError(f"the pairs at {job.data} have changed since the run; name others with --data")
    return pairs.test


class Translator(TrainedText):
    """A text-to-text network; its answers are greedy."""

    def prompt(self, text: str) -> list[int]:
        return self.tokenizer.frame(self.tokenizer.encode(text))

    def answers(self, sources: Sequence[str]) -> list[str]:
        return as_many_as_fit(BATCH, partial(self._answers, sources))

    def _answers(self, sources: Sequence[str], size: int) -> list[str]:
        model = self.model
        assert isinstance(model, TextToText)
        found: list[str] = []
        for group in groups(sources, size):
            tokens, keep = left_padded([self.prompt(text) for text in group], pad=self.tokenizer.specials.get("pad", 0))
            new = model.generate(
                tokens.to(self.device), keep=keep.to(self.device), max_new_tokens=self.length or 128, eos=self.end
            )
            found += [self.decoded(row) for row in new.tolist()]
        return found

    def predict(self, inputs: Sequence[str], top: int) -> list[dict[str, Any]]:
        if not inputs:
            raise FieldguideError('predict needs texts: fieldguide predict RUN "some text"…')
        return [{"text": text, "answer": answer} for text, answer in zip(inputs, self.answers(inputs), strict=True)]

    def shown(self, answer: Mapping[str, Any]) -> str:
        return answer["answer"]
