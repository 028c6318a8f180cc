"""Texts, each of one class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fieldguide.cli.job import Job, source
from fieldguide.cli.tasks.classes import judged, named, ranking
from fieldguide.cli.tasks.task import begins
from fieldguide.cli.tasks.text import TextTask, TrainedText, choose_length, choose_tokenizer, groups
from fieldguide.data.buckets import Sequences
from fieldguide.data.labelled import LabelledPart, LabelledTexts, open_labelled, open_labelled_part
from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification
from fieldguide.report import Examples, Predictions, worst_mistakes
from fieldguide.shapes import Float, Tensor
from fieldguide.train.pieces import as_many_as_fit
from fieldguide.train.recipe import Recipe
from fieldguide.train.run import RunFolder

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Labelled(TextTask):
    """Texts and their classes."""

    purpose = "it learns the class of a text: a CSV, TSV or JSONL of text,label, a folder per class, or python-lines"
    unit = "texts"
    counted = "texts"
    embedded = "python-lines"

    data: Sequences
    texts: LabelledTexts

    @classmethod
    def open(cls, job: Job, run: RunFolder | None) -> "Labelled":
        texts, length = open_labelled(job.data), choose_length(job)
        tokenizer = choose_tokenizer(job, run, lambda: texts.train.texts)
        data = texts.tokenized(tokenizer, length, job.on_long or "stop")
        return cls(job=job, data=data, texts=texts, tokenizer=tokenizer, length=length, begins=begins(run))

    @property
    def uses(self) -> frozenset[str]:
        return frozenset({"focal", "class_balance"})

    def decided(self) -> Mapping[str, Any]:
        return {"head": "classify", "num_classes": len(self.texts.classes)}

    def objective(self, recipe: Recipe) -> Classification:
        return Classification.of(recipe, self.texts.train.labels, len(self.texts.classes))

    def preparation(self) -> dict[str, Any]:
        return super().preparation() | {"classes": list(self.texts.classes)}

    def examine(self, run: RunFolder, device: str) -> Mapping[str, float]:
        """The confusion of classes, and the texts that were taken for something else."""
        trained, part = TextClassifier.of(run, device), self.texts.test
        logits = trained.logits(part.texts)
        worst = worst_mistakes(logits, part.labels)
        said = Predictions.of(trained.classes, logits, part.labels, worst)
        said.save(run.path)
        rows = [
            (part.names[i], part.texts[i], trained.classes[int(part.labels[i])],
             f"{trained.classes[int(said.predicted[i])]}, {said.probability[i]:.0%}")
            for i in map(int, worst)
        ]  # fmt: skip
        columns = ("where", "text", "class", "taken for")
        story = "Wrong test texts, those whose true class was found least likely first."
        Examples(title="Worst mistakes", story=story, columns=columns, rows=rows).save(run.path)
        return {}

    def next_command(self, run: str) -> str:
        return f'fieldguide predict {run} "some text"'

    @classmethod
    def trained(cls, run: RunFolder, device: str) -> "TextClassifier":
        return TextClassifier.of(run, device)

    @classmethod
    def evaluate(cls, run: RunFolder, data: str | None, device: str, on_bad_file: str) -> dict[str, Any]:
        trained = TextClassifier.of(run, device)
        part = _evaluated(run, trained, data)
        return {"texts": len(part), **judged(trained.logits(part.texts), part.labels, trained.classes)}


def _evaluated(run: RunFolder, trained: "TextClassifier", data: str | None) -> LabelledPart:
    job = Job.recall(run)
    if data is not None and source(data) != job.data:
        return open_labelled_part(source(data), classes=trained.classes)
    texts = open_labelled(job.data)
    if texts.tokenized(trained.tokenizer, trained.length, job.on_long or "stop").fingerprint != job.fingerprint:
        raise FieldguideError(f"the texts at {job.data} have changed since the run; name others with --data")
    return texts.test


class TextClassifier(TrainedText):
    """A classifier of texts; what is too long for it is cut."""

    @torch.inference_mode()
    def logits(self, texts: Sequence[str]) -> Float[Tensor, "n k"]:
        """Of each text, in their order."""
        return as_many_as_fit(
            BATCH,
            lambda size: torch.cat([self.model(*self.batch(group)).float().cpu() for group in groups(texts, size)]),
        )

    def predict(self, inputs: Sequence[str], top: int) -> list[dict[str, Any]]:
        if not inputs:
            raise FieldguideError('predict needs texts: fieldguide predict RUN "some text"…')
        chances, chosen = self.logits(inputs).softmax(1).topk(min(top, len(self.classes)))
        return [
            {"text": text, "classes": named(self.classes, cs, ps)}
            for text, cs, ps in zip(inputs, chosen.tolist(), chances.tolist(), strict=True)
        ]

    def shown(self, answer: Mapping[str, Any]) -> str:
        return "\n".join([answer["text"], *ranking(answer["classes"])])
