"""What a trained network said about the test images, small enough to keep: the input of the report's pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from fieldguide.bounded import parse_json
from fieldguide.errors import DamagedFile
from fieldguide.shapes import Float, Int, Tensor
from fieldguide.weights.files import read_with_texts

FILE = Path("figures", "predictions.safetensors")
TENSORS = ("labels", "predicted", "probability", "worst", "worst_images")
NAMES = ("classes", "worst_names")
_MOST_CLASSES = 25_000
"""Their confusions are counted pair by pair."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """One entry per test image (n), and the pictures of the worst mistakes (m)."""

    classes: Sequence[str]
    labels: Int[Tensor, " n"]
    predicted: Int[Tensor, " n"]
    probability: Float[Tensor, " n"]
    """Of the predicted class."""
    worst: Int[Tensor, " m"]
    """Positions of the worst mistakes, worst first."""
    worst_images: Tensor
    """uint8 (m, c, h, w), as they came from the data; none of them where the inputs are no images."""
    worst_names: Sequence[str]
    """Where each of them came from: a file, or a place in an array."""

    @classmethod
    def of(
        cls,
        classes: Sequence[str],
        logits: Float[Tensor, "n k"],
        labels: Int[Tensor, " n"],
        worst: Int[Tensor, " m"],
        images: Tensor | None = None,
        names: Sequence[str] = (),
    ) -> "Predictions":
        """What these logits say; ``images`` and ``names`` are those of the ``worst``, where there are pictures."""
        probability, predicted = logits.softmax(1).max(1)
        shown = torch.empty(0, 1, 1, 1, dtype=torch.uint8) if images is None else images
        return cls(classes=classes, labels=labels, predicted=predicted, probability=probability, worst=worst,
                   worst_images=shown, worst_names=names)  # fmt: skip

    def save(self, run: Path) -> None:
        (run / FILE).parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: getattr(self, name).clone(memory_format=torch.contiguous_format) for name in TENSORS}
        save_file(tensors, run / FILE, metadata={name: json.dumps(list(getattr(self, name))) for name in NAMES})

    @classmethod
    def load(cls, run: Path) -> "Predictions | None":
        """The predictions kept in a run folder, or None when the run ended before its test.

        Raises DamagedFile when the file cannot be read, or holds what no run keeps.
        """
        if not (run / FILE).exists():
            return None
        try:
            tensors, texts = read_with_texts(run / FILE)
            names = {name: parse_json(texts[name].encode()) for name in NAMES}
            found = cls(**{name: tensors[name] for name in TENSORS}, **names)
            if flaw := found._flaw():
                raise ValueError(flaw)
        except (KeyError, ValueError) as reason:
            raise DamagedFile(f"{run / FILE} cannot be read ({reason}); delete it and train --resume {run}") from None
        return found

    def _flaw(self) -> str | None:
        """What a file of predictions says that cannot be."""
        n, k, m = len(self.labels), len(self.classes), len(self.worst)
        for names in (self.classes, self.worst_names):
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                return "its names are no list of texts"
        for numbers, most in ((self.labels, k), (self.predicted, k), (self.worst, n)):
            if numbers.dtype != torch.int64 or numbers.ndim != 1 or not ((numbers >= 0) & (numbers < most)).all():
                return f"numbers outside 0 to {most - 1}"
        if len(self.predicted) != n or self.probability.shape != (n,) or not self.probability.is_floating_point():
            return f"it has {n} labels, and not as many answers"
        images = self.worst_images
        if (
            images.dtype != torch.uint8
            or images.ndim != 4
            or len(images) not in (0, m)
            or images.shape[1] not in (1, 3)
        ):
            return f"pictures of shape {tuple(images.shape)}"
        return f"{k:,} classes" if k > _MOST_CLASSES else None


def worst_mistakes(logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"], most: int = 16) -> Int[Tensor, " m"]:
    """Positions of the misclassified rows whose true class was found least likely, worst first."""
    wrong = (logits.argmax(1) != labels).nonzero().flatten()
    truth = logits.log_softmax(1).gather(1, labels[:, None]).flatten()
    return wrong[truth[wrong].argsort(stable=True)][:most]
