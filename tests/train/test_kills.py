"""SIGKILL, Ctrl-C, damage, a full disk: afterwards a training has the weights of an undisturbed one."""

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from tests.forks import python
from torch import Tensor, nn

from fieldguide import trace
from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification
from fieldguide.train import Callback, Recipe, RunFolder, TrainingWarning, fit

REPOSITORY = Path(__file__).parents[2]


def test_five_kills_change_nothing(tmp_path: Path) -> None:
    out = tmp_path / "kills.json"
    done = python("-m", "benchmarks.kills", "--kills", "5", "--epochs", "2", "--out", out, cwd=REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads(out.read_text())
    assert counts["kills"] == 5
    assert counts["identical"] == counts["runs"] >= 1
    assert counts["checkpoints_read"] >= 1
    assert counts["unloadable"] == counts["failed_resumes"] == []


# ------------------------------------------------------------------------------ other blows, dealt to a small training

RECIPE = Recipe(epochs=4, batch_size=25, threads=1, checkpoint_every=3)


def network(width: int = 16) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 10))


def train(
    run: RunFolder, resume: bool = False, model: nn.Module | None = None, *callbacks: Callback
) -> dict[str, Tensor]:
    images, labels = (torch.tensor(part[:250]) for part in load_digits(return_X_y=True))
    data = ((images.float() / 16, labels), (images[:50].float() / 16, labels[:50]))
    model = model or network()
    fit(model, data, Classification(), RECIPE, run=run, resume=resume, callbacks=callbacks)
    return model.state_dict()


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return train(RunFolder.create(tmp_path_factory.mktemp("undisturbed"), "m", "d"))


class At(Callback):
    """Does something after one step."""

    def __init__(self, step: int, act: Callable[[], object]):
        self.step, self.act = step, act

    def on_step(self, record: dict) -> None:
        if self.loop.progress.step == self.step:
            self.act()


def die() -> None:
    raise ConnectionAbortedError


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over_on_resume(
    undisturbed: dict[str, Tensor], tmp_path: Path, name: str
) -> None:
    run = RunFolder.create(tmp_path, "m", "d")
    with pytest.raises(ConnectionAbortedError):
        train(run, False, None, At(17, die))
    newest = run.checkpoints.numbered()[-1]
    (newest / name).write_bytes((newest / name).read_bytes()[:-1])
    with pytest.warns(TrainingWarning, match=rf"{newest.name}/{name} is damaged: .*; going on from \d+-step-000012"):
        assert equal(train(run, resume=True), undisturbed)
    assert (newest.with_name(f"damaged-{newest.name}")).is_dir()


def test_a_checkpoint_of_another_network_is_passed_over_and_when_all_are_the_reason_is_given(
    undisturbed: dict[str, Tensor], tmp_path: Path
) -> None:
    run, other = RunFolder.create(tmp_path, "m", "d"), RunFolder.create(tmp_path, "m", "d")
    for folder, width in ((run, 16), (other, 8)):
        with pytest.raises(ConnectionAbortedError):
            train(folder, False, network(width), At(17, die))
    stranger = other.checkpoints.numbered()[-1]
    shutil.copytree(stranger, run.checkpoints.folder / "0099-step-000015")
    with pytest.warns(TrainingWarning, match=r"0099-\S+ was refused: .* 0\.bias is \[8\] in it and \[16\] here"):
        assert equal(train(run, resume=True), undisturbed)
    with pytest.raises(FieldguideError, match=r"no checkpoint .* 0\.bias is \[8\] in it and \[16\] here") as caught:
        train(other, resume=True)
    assert "\n" not in str(caught.value)


def test_a_full_disk_does_not_stop_the_training_and_the_next_save_works(
    undisturbed: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full from step 4 to step 13; the saves at 6, 9, 10 and 12 fail, each is said once."""
    run, real = RunFolder.create(tmp_path, "m", "d"), os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill_up() -> None:
        run.checkpoints.wait()  # the save of step 3 is not the one to fail
        monkeypatch.setattr(os, "fsync", full)

    fill = At(4, fill_up)
    free = At(13, lambda: monkeypatch.setattr(os, "fsync", real))
    wait = At(13, run.checkpoints.wait)
    look = At(13, lambda: steps.append([path.name for path in run.checkpoints.numbered()]))
    steps: list[list[str]] = []
    with pytest.warns(TrainingWarning, match=r"step \d+: the checkpoint could not be saved .*No space left") as warned:
        assert equal(train(run, False, None, fill, wait, look, free), undisturbed)
    assert steps == [["0001-step-000000", "0002-step-000003"]]
    failures = [record["step"] for record in trace.read(run.metrics, "failure")]
    assert failures == [6, 9, 10, 12]
    assert sum("could not be saved" in str(warning.message) for warning in warned) == 4
    last = run.checkpoints.newest()
    assert last
    assert last.step == 40


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "m", "d")
    train(run)
    before = run.metrics.read_bytes()
    with pytest.raises(FieldguideError, match="holds a training already"):
        train(run)
    assert run.metrics.read_bytes() == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_rest_is_the_same(
    undisturbed: dict[str, Tensor], tmp_path: Path, number: int, code: int
) -> None:
    """A real signal to a real process, at any moment of its training."""
    run = RunFolder.create(tmp_path, "m", "d")
    pipe, says = os.pipe()
    if (child := os.fork()) == 0:
        try:
            train(run, False, None, At(7, lambda: os.write(says, b"7")), At(8, lambda: time.sleep(0.3)))
        except SystemExit as error:
            os._exit(error.code)  # pyright: ignore[reportArgumentType]
        finally:
            os._exit(1)
    os.read(pipe, 1)
    os.kill(child, number)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
    saved = run.checkpoints.newest()
    assert saved
    assert saved.step in (7, 8)
    assert equal(train(run, resume=True), undisturbed)
