"""What a classifier says, whatever it classifies."""

from collections.abc import Mapping, Sequence
from typing import Any

from fieldguide.metrics import ClassificationMetrics
from fieldguide.report.story import class_scores
from fieldguide.shapes import Float, Int, Tensor


def judged(logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"], classes: Sequence[str]) -> dict[str, Any]:
    """Loss, accuracy, F1 and a row per class, as plain values."""
    metrics = ClassificationMetrics()
    metrics.add(logits, labels)
    rows = [score._asdict() | {"support": int(score.support)} for score in class_scores(metrics.confusion, classes)]
    return {**metrics.compute(), "classes": rows}


def named(classes: Sequence[str], chosen: Sequence[int], chances: Sequence[float]) -> list[dict[str, Any]]:
    """The likeliest classes of one input."""
    return [{"name": classes[c], "probability": p} for c, p in zip(chosen, chances, strict=True)]


def ranking(guesses: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"  {guess['probability']:7.2%}  {guess['name']}" for guess in guesses]
