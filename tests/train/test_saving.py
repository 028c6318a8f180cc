"""What a training does about its checkpoints: when one fails, when there is little room, and how many it keeps."""

import errno
import os
import shutil
import threading
from collections import namedtuple
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fieldguide import trace
from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification
from fieldguide.train import Callback, Recipe, RunFolder, TrainingWarning, fit
from fieldguide.train.checkpoint import disk, folder, numbered


def train(run: RunFolder, *callbacks: Callback, resume: bool = False, **recipe: Any) -> nn.Module:
    torch.manual_seed(1)
    data = (torch.randn(40, 5), torch.randint(3, (40,)))
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Dropout(0.1), nn.Linear(7, 3))
    settings = Recipe(**({"epochs": 2, "batch_size": 8, "threads": 1, "checkpoint_every": 1} | recipe))
    fit(model, (data, data), Classification(), settings, run=run, callbacks=callbacks, resume=resume)
    return model


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create_at(tmp_path / "run")


def names(run: RunFolder) -> list[str]:
    return [path.name for path in run.checkpoints.numbered()]


class EachStep(Callback):
    """Waits for the save under way, as a slow step would, and does something."""

    def __init__(self, act: Callable[[int], object] = lambda step: None):
        self.act = act

    def on_step(self, record: dict[str, Any]) -> None:
        self.loop.callbacks.named["Saving"].run.checkpoints.wait()
        self.act(self.loop.progress.step)


def failing(monkeypatch: pytest.MonkeyPatch, step: int, error: Exception) -> None:
    write = disk.write

    def full(path: Path, chunks: Iterable[disk.Bytes]) -> dict[str, Any]:
        if path.parent.name.split(".")[1].endswith(f"-step-{step:06d}"):
            raise error
        return write(path, chunks)

    monkeypatch.setattr(folder, "write", full)


def test_a_failure_is_said_at_the_next_step_and_the_next_save_works(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, 2, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.warns(TrainingWarning, match=r"step 2: the checkpoint could not be saved \(.*No space left") as warned:
        train(run, EachStep())
    assert len(warned) == 1
    records = [(record["kind"], record["step"]) for record in trace.read(run.metrics)]
    assert records[1:5] == [("step", 2), ("step", 3), ("failure", 2), ("step", 4)]
    assert names(run)[-1].endswith("-step-000010")


def test_an_error_that_is_not_the_disks_ends_the_training_at_the_next_step(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, 2, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        train(run, EachStep())
    assert [record["step"] for record in trace.read(run.metrics, "step")] == [1, 2, 3]
    assert names(run)[-1].endswith("-step-000001")


def test_a_checkpoint_that_the_disk_does_not_confirm_replaces_nothing(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = disk.sync_folder

    def unsure(path: Path) -> None:
        if path.name == "checkpoints" and list(path.glob("*-step-000003")):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(path)

    def stop(step: int) -> None:
        if step == 4:
            assert names(run) == ["0002-step-000001", "0003-step-000002", "0004-step-000003"]
            monkeypatch.setattr(folder, "sync_folder", sync)

    monkeypatch.setattr(folder, "sync_folder", unsure)
    with pytest.warns(TrainingWarning, match=r"step 3: the checkpoint is saved, with a reservation .*a power cut may"):
        train(run, EachStep(stop), epochs=1)
    assert names(run) == ["0006-step-000005", "0007-step-000005"]


def test_links_that_cannot_be_moved_are_no_failed_save(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(numbered.os, "symlink", refuse)
    with pytest.warns(TrainingWarning, match=r"step \d: the checkpoint is saved, with a reservation .*may be old"):
        train(run, epochs=1)
    assert names(run) == ["0006-step-000005", "0007-step-000005"]


def test_little_room_is_said_before_the_first_step(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")(10**9, 10**9 - 5000, 5000)
    monkeypatch.setattr(numbered.shutil, "disk_usage", lambda path: usage)
    with pytest.warns(
        TrainingWarning, match=r"step 0: checkpoints need up to [\d,]+ bytes in .*run and 5,000 are free"
    ):
        train(run)
    first = next(trace.read(run.metrics))
    assert (first["kind"], first["step"]) == ("failure", 0)


def test_room_is_enough_for_what_is_kept(run: RunFolder) -> None:
    train(run)
    needed = run.checkpoints.room({}, growth=100)[0]
    assert needed == 400


@pytest.mark.parametrize("beside", [True, False])
def test_the_newest_few_and_the_best_are_kept_whichever_way_they_are_saved(run: RunFolder, beside: bool) -> None:
    train(run, keep_last=4, async_save=beside)
    assert names(run)[-4:] == ["0010-step-000008", "0011-step-000009", "0012-step-000010", "0013-step-000010"]
    best = run.checkpoints.best()
    assert best
    assert set(names(run)[:-4]) <= {best.name}
    assert run.checkpoints._room is None


def test_both_ways_save_the_same_and_a_resume_may_change_them(tmp_path: Path) -> None:
    runs = [RunFolder.create_at(tmp_path / name) for name in ("a", "b")]
    models = [train(runs[0], async_save=True)]

    def die(step: int) -> None:
        if step == 7:
            raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        train(runs[1], EachStep(die), async_save=False)
    models.append(train(runs[1], resume=True, keep_last=3))
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))
    assert len(names(runs[1])) >= 3


def test_a_folder_that_is_deleted_or_in_the_way_does_not_end_the_training(run: RunFolder) -> None:
    def blow(step: int) -> None:
        if step == 3:
            shutil.rmtree(run.checkpoints.folder)
            run.checkpoints.folder.write_text("in the way")
        if step == 6:
            run.checkpoints.folder.unlink()
        if step == 8:
            shutil.rmtree(run.path)

    with pytest.warns(TrainingWarning) as warned:
        train(run, EachStep(blow), keep_last=2)
    failed = [str(warning.message).split(":")[0] for warning in warned if "could not be saved" in str(warning.message)]
    assert failed == [*(f"step {step}" for step in (3, 4, 5, 5, 8, 9, 10, 10))]
    assert not run.path.exists()


def test_an_abort_does_not_wait_for_the_save_under_way(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    write, gate = disk.write, threading.Event()

    class Abort(Callback):
        def on_step(self, record: dict[str, Any]) -> None:
            raise KeyboardInterrupt

    def slow(path: Path, chunks: Iterable[disk.Bytes]) -> dict[str, Any]:
        assert gate.wait(60)
        return write(path, chunks)

    monkeypatch.setattr(folder, "write", slow)
    with pytest.raises(KeyboardInterrupt):
        train(run, Abort())
    assert not gate.is_set()
    assert names(run) == []
    gate.set()
    run.checkpoints.wait()
    assert names(run) == ["0001-step-000000"]


def test_one_is_too_few() -> None:
    with pytest.raises(FieldguideError, match="keep_last"):
        Recipe(keep_last=1)


def test_lines_that_a_log_has_lost_are_said(run: RunFolder) -> None:
    train(run, epochs=1)
    content = run.metrics.read_bytes()
    run.metrics.write_bytes(content[:-20])
    with pytest.warns(TrainingWarning, match=r"metrics\.jsonl lacks 20 bytes that it had at this checkpoint"):
        train(run, epochs=1, resume=True)
