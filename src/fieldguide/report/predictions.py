"""What a trained network said about the test images, small enough to keep: the input of the report's pictures."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fieldguide.errors import DamagedFile
from fieldguide.shapes import Float, Int, Tensor

FILE = Path("figures", "predictions.safetensors")
TENSORS = ("labels", "predicted", "probability", "worst", "worst_images")
NAMES = ("classes", "worst_names")


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

        Raises DamagedFile when the file cannot be read.
        """
        if not (run / FILE).exists():
            return None
        try:
            with safe_open(run / FILE, framework="pt") as file:
                names = {name: json.loads(file.metadata()[name]) for name in NAMES}
                return cls(**{name: file.get_tensor(name) for name in TENSORS}, **names)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as reason:
            raise DamagedFile(f"{run / FILE} cannot be read ({reason}); delete it and train --resume {run}") from None


def worst_mistakes(logits: Float[Tensor, "n k"], labels: Int[Tensor, " n"], most: int = 16) -> Int[Tensor, " m"]:
    """Positions of the misclassified rows whose true class was found least likely, worst first."""
    wrong = (logits.argmax(1) != labels).nonzero().flatten()
    truth = logits.log_softmax(1).gather(1, labels[:, None]).flatten()
    return wrong[truth[wrong].argsort(stable=True)][:most]
