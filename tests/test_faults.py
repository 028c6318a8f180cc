"""Some of every fault that ``python -m benchmarks.faults`` deals, and whether it would notice a save that is wrong."""

import os
import random
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from benchmarks import faults
from benchmarks.crashes import Recording
from benchmarks.faults import Row, judge_after_cut

from fieldguide.train.checkpoint import Checkpoints, disk, folder, numbered


def require(row: Row, cases: int) -> None:
    assert row.cases >= cases, row.fault
    assert row.examples == []


def test_kills_at_random_moments(tmp_path: Path) -> None:
    require(faults.random_kills(tmp_path / "run", 25, random.Random(1)), 25)


def test_a_death_at_each_system_call_of_a_save_beside_the_training(tmp_path: Path) -> None:
    (row,) = faults.every_call(tmp_path, [True])
    require(row, 30)


def test_every_state_that_a_power_cut_may_leave(tmp_path: Path) -> None:
    for row in faults.power_cuts(tmp_path):
        require(row, 50)


def test_refusals(tmp_path: Path) -> None:
    (row,) = faults.refusals(tmp_path, ["EACCES"])  # others: tests/train/test_checkpoint.py
    require(row, 30)


def test_damage(tmp_path: Path) -> None:
    rows = [*faults.corruptions(tmp_path / "run", 240, random.Random(1))]
    assert len(rows) == len(faults.DAMAGE)
    for row in rows:
        require(row, 3)


def test_litter_limits_and_a_second_writer(tmp_path: Path) -> None:
    require(faults.litter(tmp_path), 7)
    require(faults.limits(tmp_path / "limits"), 15)
    require(faults.two_writers(tmp_path / "writers"), 20)


# ------------------------------------------------------------------------------------------ the faults of a worse save


def outcomes(folder: Path, record: Callable[[Path], Recording]) -> set[str]:
    row, recording = Row("", ""), record(folder / "recorded")
    for done, state in recording.crashes():
        row.cases += 1
        state.write(folder / str(row.cases))
        judge_after_cut(row, folder / str(row.cases), done, "")
    return set(row.outcomes)


def test_content_that_is_not_synced_is_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = Recording._fsync

    def names_only(recording: Recording, original: Callable[..., None], descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            sync(recording, original, descriptor)

    def second_save(place: Path) -> Recording:
        checkpoints = faults.saved(place, steps=1)
        with Recording(place, done=1, largest=512) as recording:
            checkpoints.save(faults.state_of(2), step=2)
        return recording

    monkeypatch.setattr(Recording, "_fsync", names_only)
    assert "torn" in outcomes(tmp_path, second_save)


def test_a_name_that_is_not_synced_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (folder, numbered):
        monkeypatch.setattr(module, "sync_folder", lambda path: None)
    assert "lost" in outcomes(tmp_path, faults.first_save)


def test_a_removal_without_a_sync_leaves_torn_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbered, "sync_folder", lambda path: None)
    assert "torn" in outcomes(tmp_path, faults.logs_as_well)


def test_a_log_that_is_not_synced_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numbered, "sync", lambda path: None)
    assert "lost" in outcomes(tmp_path, faults.logs_as_well)


def test_a_snapshot_that_is_none_is_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed, write = threading.Event(), disk.write

    def late(path: Path, chunks: Iterable[disk.Bytes]) -> dict[str, Any]:
        changed.wait(60)
        return write(path, chunks)

    monkeypatch.setattr(folder, "write", late)
    monkeypatch.setattr(numbered.Image, "copied", lambda image, room: image)
    row, checkpoints, state = Row("", ""), Checkpoints(tmp_path / "checkpoints"), faults.state_of(1)
    checkpoints.begin(state, step=1)
    state["model"]["weight"].fill_(-1)
    changed.set()
    faults.judge(row, checkpoints, 1, "")
    assert set(row.outcomes) == {"mixed"}
