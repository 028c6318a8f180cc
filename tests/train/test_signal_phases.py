"""SIGTERM, Ctrl-C once and twice, in every phase of a training: heard within a step, saved, and resumed bit for bit.

Each training is a process of its own, forked from this one, which has imported everything already. It says through a
pipe that it has come to the phase, and goes on when the signal has been sent.
"""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fieldguide.objectives import Classification
from fieldguide.train import Callback, Recipe, RunFolder, fit
from fieldguide.train.recipe import OptimizerRecipe, ScheduleRecipe

Pause = Callable[[str], None]
PHASES = {
    "start": 1, "data": 5, "forward": 5, "backward": 5, "optimizer": 5, "step": 5, "evaluation": 2, "epoch": 1,
    "save": 3, "disk": 12, "last step": 1, "statistics": 1, "end": 1,
}  # fmt: skip
"""Where a training waits, and at which visit there: the disk is waited for by a thread beside the training."""
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 128 + signal.SIGUSR1}


class Net(nn.Module):
    def __init__(self, pause: Pause):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3))
        self.pause = pause

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            self.pause("evaluation")
        elif torch.is_grad_enabled():
            self.pause("forward")
        else:
            self.pause("statistics")
        y = self.layers(x)
        if y.requires_grad:
            y.register_hook(lambda _: self.pause("backward"))
        return y


class Batches:
    def __init__(self, pause: Pause, number: int):
        self.pause, self.number = pause, number

    def __len__(self) -> int:
        return self.number

    def batches(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(start, self.number):
            if torch.is_grad_enabled():  # not the validation
                self.pause("data")
            generator = torch.Generator().manual_seed(i)
            inputs = torch.randn(10, 6, generator=generator)
            yield inputs, inputs[:, :3].argmax(1)


class Ear(Callback):
    """Waits in what a training does besides computing."""

    def __init__(self, pause: Pause):
        self.pause = pause

    def on_start(self, loop: Any) -> None:
        super().on_start(loop)
        self.pause("start")

    def before_update(self, part: str) -> None:
        self.pause("optimizer")

    def on_step(self, record: dict) -> None:
        self.pause("last step" if self.loop.progress.step == self.loop.steps else "step")

    def on_epoch(self, record: dict) -> None:
        self.pause("epoch")

    def on_end(self) -> None:
        self.pause("end")

    def state_dict(self) -> dict[str, Any]:
        self.pause("save")
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.pause("load")


def train(path: Path, pause: Pause = lambda _: None, resume: bool = False) -> dict[str, Tensor]:
    recipe = Recipe(
        epochs=3,
        batch_size=10,
        threads=1,
        checkpoint_every=3,
        optimizer=OptimizerRecipe(name="schedule_free", lr=0.01),
        schedule=ScheduleRecipe(name="constant"),
    )
    data = (Batches(pause, 4), Batches(pause, 3))
    model = Net(pause)
    run = RunFolder.open(path) if resume else RunFolder.create_at(path)
    fit(model, data, Classification(), recipe, run=run, resume=resume, callbacks=[Ear(pause)])
    return model.state_dict()


class Forked:
    """A training in a process of its own that waits at one visit to one phase."""

    def __init__(self, path: Path, phase: str, visit: int, resume: bool = False):
        (self.heard, said), (go, self.go) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(said)
            os.close(go)
            assert os.read(self.heard, 1), f"it ended before {phase}"
            return
        visits = 0

        def pause(here: str) -> None:
            nonlocal visits
            visits += here == phase
            if here == phase and visits == visit:
                os.write(said, b"!")
                os.read(go, 1)

        code = 1
        try:
            os.close(self.heard)
            os.close(self.go)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            fsync = os.fsync

            def slow(descriptor: int) -> None:
                pause("disk")
                fsync(descriptor)

            os.fsync = slow
            train(path, pause, resume)
            code = 0
        except SystemExit as end:
            code = end.code
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code if isinstance(code, int) else 1)

    def end(self, *signals: int) -> int:
        """Its exit code after these signals."""
        for number in signals:
            os.kill(self.pid, number)
        with suppress(BrokenPipeError):
            os.write(self.go, b"!")
        os.close(self.go)
        os.close(self.heard)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return train(tmp_path_factory.mktemp("unbroken") / "run")


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_one_signal_stops_saves_and_resumes(unbroken: dict, tmp_path: Path, phase: str, number: int) -> None:
    assert Forked(tmp_path / "run", phase, PHASES[phase]).end(number) == CODES[number]
    assert same(train(tmp_path / "run", resume=True), unbroken)


@pytest.mark.parametrize(
    "phase", [pytest.param(p, marks=[pytest.mark.slow] * (p not in ("forward", "evaluation", "disk"))) for p in PHASES]
)
def test_the_second_ctrl_c_does_not_wait_and_the_run_still_resumes(unbroken: dict, tmp_path: Path, phase: str) -> None:
    assert Forked(tmp_path / "run", phase, PHASES[phase]).end(signal.SIGINT, signal.SIGINT) == 130
    assert same(train(tmp_path / "run", resume=True), unbroken)


@pytest.mark.parametrize("phase", ["load", "start", "forward"])
def test_a_resumed_training_stops_too(unbroken: dict, tmp_path: Path, phase: str) -> None:
    assert Forked(tmp_path / "run", "forward", 5).end(signal.SIGTERM) == 143
    assert Forked(tmp_path / "run", phase, 1, resume=True).end(signal.SIGTERM) == 143
    assert same(train(tmp_path / "run", resume=True), unbroken)


def test_the_warning_of_a_cluster_counts_as_the_end(unbroken: dict, tmp_path: Path) -> None:
    assert Forked(tmp_path / "run", "backward", 6).end(signal.SIGUSR1, signal.SIGTERM) == CODES[signal.SIGUSR1]
    assert same(train(tmp_path / "run", resume=True), unbroken)


@pytest.mark.parametrize(
    ("phase", "visit", "step"), [("data", 6, 6), ("forward", 6, 6), ("optimizer", 6, 6), ("step", 6, 6)]
)
def test_it_is_heard_within_the_step(tmp_path: Path, phase: str, visit: int, step: int) -> None:
    Forked(tmp_path / "run", phase, visit).end(signal.SIGTERM)
    newest = RunFolder.open(tmp_path / "run").checkpoints.newest()
    assert newest
    assert newest.step == step


def test_a_stop_during_a_save_costs_no_second_one(tmp_path: Path) -> None:
    Forked(tmp_path / "run", "save", 3).end(signal.SIGTERM)
    assert [path.name for path in RunFolder.open(tmp_path / "run").checkpoints.numbered()] == [
        "0001-step-000000", "0002-step-000003",
    ]  # fmt: skip
