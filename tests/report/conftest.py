"""A run folder made by hand: real scans, a real (linear) classifier, and the log its training would leave."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from fieldguide import trace
from fieldguide.report import Predictions, worst_mistakes


def write_log(run: Path, epochs: int = 8, steps_per_epoch: int = 20) -> None:
    noise = torch.randn(epochs * steps_per_epoch, generator=torch.Generator().manual_seed(0)).tolist()
    records, total = [], epochs * steps_per_epoch
    for step in range(1, total + 1):
        epoch, share = (step - 1) // steps_per_epoch, step / total
        loss = 2.3 * math.exp(-6 * share) * math.exp(0.2 * noise[step - 1]) + 0.01
        lr = 1e-3 * min(step / 10, 0.5 + 0.5 * math.cos(math.pi * share))
        records.append({"kind": "step", "step": step, "epoch": epoch, "loss": loss, "lr": lr, "grad_norm": 1.0,
                        "samples": 64, "seconds": 0.01})  # fmt: skip
        if step % steps_per_epoch == 0:
            records.append({"kind": "epoch", "epoch": epoch, "step": step, "train_loss": loss, "val_loss": loss * 1.3,
                            "val_accuracy": 1 - loss / 5, "seconds": 0.2, "samples_per_second": 6400.0})  # fmt: skip
    records.append({"kind": "test", "step": total, "test_loss": 0.1, "test_accuracy": 0.95})
    trace.write(run / "metrics.jsonl", records)


def digit_predictions(classes: list[str] | None = None) -> Predictions:
    """What a logistic regression trained on a few scans says about the others."""
    digits = load_digits()
    model = LogisticRegression(max_iter=200).fit(digits.data[:300], digits.target[:300])
    logits = torch.from_numpy(model.decision_function(digits.data[300:]))
    labels = torch.from_numpy(digits.target[300:])
    worst = worst_mistakes(logits, labels)
    images = torch.from_numpy(digits.images[300:]).mul(255 / 16).round().to(torch.uint8)[:, None]
    probability, predicted = logits.softmax(1).max(1)
    return Predictions(classes=classes or [str(d) for d in range(10)], labels=labels, predicted=predicted,
                       probability=probability.float(), worst=worst, worst_images=images[worst],
                       worst_names=[f"digits[{300 + i}]" for i in worst.tolist()])  # fmt: skip


@pytest.fixture(name="write_log")
def _write_log() -> Callable[..., None]:
    return write_log


@pytest.fixture(name="digit_predictions")
def _digit_predictions() -> Callable[..., Predictions]:
    return digit_predictions


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_log(tmp_path)
    digit_predictions().save(tmp_path)
    (tmp_path / "recipe.toml").write_text('epochs = 8\nseed = 0\n[optimizer]\nname = "adamw"\nlr = 0.001\n')
    (tmp_path / "environment.json").write_text('{"python": "3.11.7", "packages": {"torch": "2.15.0"}, "cores": 2}')
    return tmp_path
