"""What a training saves beside itself is, bit for bit, the state of the step that it says, whatever moved since."""

import math
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fieldguide.objectives import Classification
from fieldguide.trace import Record
from fieldguide.train import Callback, Recipe, RunFolder, fit
from fieldguide.train.checkpoint import TENSORS, VALUES, folder, save
from fieldguide.train.recipe import OptimizerRecipe, ScheduleRecipe

STEPS = 4
CONSTANT = ScheduleRecipe(name="constant")


class Witness(Callback):
    """Saves each step's state while the training waits, and lets a save beside it write only after the next update."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch):
        self.path, self.write, self.step, self.moved = path, folder.write, 0.0, threading.Condition()
        patch.setattr(folder, "write", self.write_late)

    def write_late(self, path: Path, chunks: Any) -> Any:
        if found := re.search(r"-step-(\d+)", path.parent.name):
            with self.moved:
                assert self.moved.wait_for(lambda: self.step > int(found[1]), timeout=20)
        return self.write(path, chunks)

    def go_on(self, step: float) -> None:
        with self.moved:
            self.step = step
            self.moved.notify_all()

    def on_step(self, record: Record) -> None:
        self.go_on(record["step"])
        save(self.path / str(record["step"]), self.loop.state_dict())

    def on_epoch(self, record: Record) -> None:
        self.go_on(math.inf)


def bits(folder: Path) -> dict[str, bytes]:
    found = load_file(folder / TENSORS)
    del found["random/python/words"]  # the type checks of these tests draw from that generator
    return {name: tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for name, tensor in found.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": OptimizerRecipe(name="adamw", lr=0.01)},
        {"optimizer": OptimizerRecipe(name="sgd", lr=0.1)},
        {"ema": 0.9},
        {"swa": 0.8},
        {"lookahead": 2},
        {"optimizer": OptimizerRecipe(name="schedule_free", lr=0.01), "schedule": CONSTANT},
        {"sharpness": 0.05},
        {"head_epochs": 1},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_no_later_step_is_in_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2))
    model.add_module("head", nn.Linear(8, 3))
    data = torch.randn(STEPS * 8, 6), torch.randint(3, (STEPS * 8,))
    recipe = Recipe(epochs=1, batch_size=8, checkpoint_every=1, keep_last=STEPS + 2, deterministic=True, **changes)
    run = RunFolder.create_at(tmp_path / "run")
    fit(model, (data, None), Classification(), recipe, run=run, callbacks=[Witness(tmp_path, monkeypatch)])

    weights = []
    for number in range(1, STEPS + 1):
        saved, seen = run.checkpoints.folder / f"{number + 1:04d}-step-{number:06d}", tmp_path / str(number)
        assert (saved / VALUES).read_bytes() == (seen / VALUES).read_bytes()
        assert bits(saved) == bits(seen)
        weights.append(bits(saved)["model/head.weight"])
    assert len({*weights}) == STEPS
