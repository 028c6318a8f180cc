"""Predicted numbers against the true ones: what a network said about the test rows, and its picture."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from fieldguide.bounded import parse_json
from fieldguide.errors import DamagedFile
from fieldguide.report.style import BLUE, FAINT, ORANGE, figure
from fieldguide.shapes import Float, Tensor
from fieldguide.weights.files import read_with_texts

FILE = Path("figures", "numbers.safetensors")
BINS = 40


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """One entry per test row (n), in the target's units."""

    target: str
    truth: Float[Tensor, " n"]
    predicted: Float[Tensor, " n"]

    def save(self, run: Path) -> None:
        (run / FILE).parent.mkdir(parents=True, exist_ok=True)
        tensors = {"truth": self.truth.contiguous(), "predicted": self.predicted.contiguous()}
        save_file(tensors, run / FILE, metadata={"target": json.dumps(self.target)})

    @classmethod
    def load(cls, run: Path) -> "Numbers | None":
        """The numbers kept in a run folder, or None. Raises DamagedFile when the file cannot be read."""
        if not (run / FILE).exists():
            return None
        try:
            tensors, texts = read_with_texts(run / FILE)
            truth, predicted, target = tensors["truth"], tensors["predicted"], parse_json(texts["target"].encode())
            if not isinstance(target, str) or truth.ndim != 1 or not len(truth) or truth.shape != predicted.shape:
                raise ValueError(f"target {target!r:.40}, {tuple(truth.shape)} and {tuple(predicted.shape)} numbers")
            if not (truth.isfinite() & predicted.isfinite()).all():
                raise ValueError("numbers that are not finite")
            return cls(target=target, truth=truth, predicted=predicted)
        except (KeyError, ValueError) as reason:
            raise DamagedFile(f"{run / FILE} cannot be read ({reason}); delete it and train --resume {run}") from None

    @property
    def story(self) -> str:
        error = (self.predicted - self.truth).abs()
        worst = int(error.argmax())
        return (
            f"Predicted {self.target} of {len(error):,} test rows against the true one, with the line where both are "
            f"equal; right, how often each error occurs. Half of the errors are below {float(error.median()):.3g}; the "
            f"largest is {float(error[worst]):.3g}, where {float(self.truth[worst]):.4g} was true."
        )


def draw_scatter(numbers: Numbers, file: Path) -> Path:
    """Prediction over truth with the identity line, and beside it the histogram of the errors."""
    truth, predicted = numbers.truth.double().numpy(), numbers.predicted.double().numpy()
    low, high = min(truth.min(), predicted.min()), max(truth.max(), predicted.max())
    edge = 0.04 * (high - low) or 1.0
    limits = low - edge, high + edge
    with figure(file, 7.2, 3.9) as drawing:
        points, errors = drawing.subplots(1, 2, width_ratios=[3, 2])
        points.plot(limits, limits, color=ORANGE, linewidth=1)
        size = 14 if len(truth) < 500 else 5
        points.scatter(truth, predicted, s=size, color=BLUE, alpha=max(0.15, min(0.7, 200 / len(truth))), linewidths=0)
        points.set(xlim=limits, ylim=limits, aspect="equal", xlabel="true", ylabel="predicted")
        points.set_title(numbers.target)
        points.grid(True, axis="both")
        errors.axvline(0, color=ORANGE, linewidth=1)
        errors.hist(predicted - truth, bins=min(BINS, max(5, round(len(truth) ** 0.5))), color=BLUE, alpha=0.75)
        errors.set(xlabel="predicted − true", ylabel="rows")
        errors.set_title("errors", color=FAINT, fontsize=9)
    return file
