"""Run folders as a training leaves them, written without one: what a stranger tampers with before sending them."""

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import PIL.Image
import torch

from fieldguide import create_model
from fieldguide.data import open_images
from fieldguide.data.tokenizer import bytes_for
from fieldguide.models.store import save_model
from fieldguide.report import Examples, Predictions
from fieldguide.trace import write
from fieldguide.train.checkpoint import save
from fieldguide.train.recipe import load_recipe, to_toml
from fieldguide.train.run import RunFolder

CLASSES = [str(digit) for digit in range(10)]
STEP = {"kind": "step", "epoch": 0, "loss": 2.0, "lr": 0.1, "grad_norm": 1.0, "samples": 8, "seconds": 0.1}
_kept: list[TemporaryDirectory] = []
LOG = [
    *({**STEP, "step": step} for step in range(1, 31)),
    {"kind": "epoch", "epoch": 0, "step": 30, "train_loss": 2.0, "val_loss": 2.0, "val_accuracy": 0.5, "seconds": 3.0,
     "samples_per_second": 80.0},
    {"kind": "test", "step": 30, "test_loss": 2.0, "test_accuracy": 0.5},
]  # fmt: skip


def a_run_of_images(folder: Path) -> Path:
    """A classifier of the embedded digits."""
    return shutil.copytree(_images(), folder / "run")


def a_run_of_text(folder: Path) -> Path:
    """A language model on bytes."""
    return shutil.copytree(_text(), folder / "run")


@cache
def _images() -> Path:
    torch.manual_seed(0)
    digits = open_images("digits")
    data = {"kind": "images", "classes": CLASSES, "channels": 1, "image_size": [8, 8], "mean": [0.3], "std": [0.4],
            "resize": "cover, then centre crop"}  # fmt: skip
    run = _run("resnet_mini", "digits", "images", digits.fingerprint)
    save_model(create_model("resnet_mini"), run.model, extra={"data": data})
    logits = torch.randn(20, 10)
    images = torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8)
    Predictions.of(CLASSES, logits, torch.arange(20) % 10, torch.tensor([1, 2]), images, ["x", "y"]).save(run.path)
    PIL.Image.fromarray(np.zeros((8, 8), np.uint8)).save(run.path / "x.png")
    Examples(title="Examples", story="A few.", columns=("a", "b"), rows=[("1", "2")]).save(run.path)
    return run.path


@cache
def _text() -> Path:
    torch.manual_seed(0)
    run = _run("gpt_mini", "python-source", "tokens", "0")
    tokenizer = bytes_for("gpt").to_json()
    data = {"kind": "text", "classes": None, "length": 32}
    save_model(create_model("gpt_mini"), run.model, extra={"data": data}, tokenizer={"tokenizer.json": tokenizer})
    return run.path


def _run(model: str, data: str, unit: str, fingerprint: str) -> RunFolder:
    folder = TemporaryDirectory()
    _kept.append(folder)
    run = RunFolder.create_at(Path(folder.name, "run"))
    environment = json.loads(run.environment.read_text())
    environment["job"] = {"model": model, "data": data, "unit": unit, "fingerprint": fingerprint}
    run.environment.write_text(json.dumps(environment))
    run.recipe.write_text(to_toml(load_recipe()))
    write(run.metrics, LOG)
    save(run.path / "checkpoints/0001-step-000030", {"a": torch.ones(3)}, step=30)
    return run
