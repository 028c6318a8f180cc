"""A run folder is never overwritten, belongs to one process at a time, and tells where it was made."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from fieldguide.errors import FieldguideError
from fieldguide.train.run import RunFolder, replace_text


def test_numbers_go_up_and_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "resnet_mini-digits-7").mkdir()
    (tmp_path / "resnet_mini-digits-old").mkdir()
    names = [RunFolder.create(tmp_path, "resnet_mini", "digits").path.name for _ in range(3)]
    assert names == ["resnet_mini-digits-8", "resnet_mini-digits-9", "resnet_mini-digits-10"]
    with pytest.raises(FieldguideError, match=r"resnet_mini-digits-8 exists already.*--resume"):
        RunFolder.create_at(tmp_path / "resnet_mini-digits-8")


def test_processes_that_start_together_get_folders_of_their_own(tmp_path: Path) -> None:
    children = []
    for _ in range(8):
        if (child := os.fork()) == 0:
            try:
                for _ in range(10):
                    RunFolder.create(tmp_path, "m", "d")
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    assert len(list(tmp_path.glob("m-d-*/environment.json"))) == 80


@pytest.mark.parametrize(
    ("data", "part"),
    [("digits", "digits"), ("/home/me/my cats & dogs/", "my_cats_dogs"), ("../x/set.csv", "set"), ("..", "data")],
)
def test_any_data_source_gives_a_plain_name(tmp_path: Path, data: str, part: str) -> None:
    run = RunFolder.create(tmp_path / "runs", "vit_mini", data)
    assert run.path == tmp_path / "runs" / f"vit_mini-{part}-1"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FieldguideError, match="cannot make the run folder"):
        RunFolder.create(tmp_path / "file" / "runs", "m", "d")


def test_opening_what_is_not_a_run(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "resnet_mini", "digits")
    assert RunFolder.open(tmp_path / "resnet_mini-digits-1").metrics.name == "metrics.jsonl"
    with pytest.raises(FieldguideError, match="did you mean 'resnet_mini-digits-1'"):
        RunFolder.open(tmp_path / "resnet_mini-digit-1")
    with pytest.raises(FieldguideError, match="is not a run folder"):
        RunFolder.open(tmp_path)


def in_child(work: Callable[[], str]) -> tuple[int, str]:
    """Fork a process that says what ``work`` returns, or the error, and then stays until it is killed."""
    pipe, says = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(says, work().encode())
        except FieldguideError as error:
            os.write(says, str(error).encode())
        finally:
            signal.pause()
    said = os.read(pipe, 1000).decode()
    os.close(pipe)
    os.close(says)
    return child, said


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_second_process_is_told_who_holds_the_run_and_a_killed_owner_holds_nothing(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "m", "d")
    held = ExitStack()  # outlives the function that enters it, as a training does

    def hold() -> str:
        held.enter_context(run.locked())
        return "locked"

    owner, said = in_child(hold)
    assert said == "locked"
    with pytest.raises(FieldguideError, match=rf"is in use by process {owner} on \S+; wait"), run.locked():
        pass
    kill(owner)
    with run.locked():
        other, said = in_child(hold)
        kill(other)
        assert f"process {os.getpid()} on" in said
        with pytest.raises(FieldguideError, match=f"process {os.getpid()}"), run.locked():
            pass  # not even this process gets it twice
    with run.locked():
        pass


def test_a_forked_worker_that_outlives_its_killed_trainer_does_not_hold_the_run(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "m", "d")
    pipe, worker_says = os.pipe()
    if (trainer := os.fork()) == 0:
        with run.locked():
            if os.fork() == 0:
                os.write(worker_says, b"%d" % os.getpid())
                signal.pause()
            signal.pause()
    worker = int(os.read(pipe, 20))
    try:
        with pytest.raises(FieldguideError, match=f"process {trainer}"), run.locked():
            pass
        kill(trainer)
        with run.locked():
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_the_environment_is_there_and_gives_nobody_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hunter2-secret")
    monkeypatch.setattr(sys, "argv", ["/home/me/bin/fieldguide", "train", "lenet5"])
    monkeypatch.chdir(tmp_path)
    text = RunFolder.create(tmp_path, "m", "d").environment.read_text()
    facts = json.loads(text)
    assert facts["command"] == ["fieldguide", "train", "lenet5"]
    assert facts["packages"]["torch"]
    assert facts["cores"] >= 1
    assert facts["revision"] is None
    assert "hunter2-secret" not in text
    assert os.uname().nodename not in text


def test_the_revision_of_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "train.py").write_text("1")
    for arguments in (["init", "-q"], ["add", "train.py"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    clean = json.loads(RunFolder.create(tmp_path, "m", "d").environment.read_text())["revision"]
    (tmp_path / "train.py").write_text("2")
    changed = json.loads(RunFolder.create(tmp_path, "m", "d").environment.read_text())["revision"]
    assert len(clean) == 40
    assert changed == clean + "+"


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    replace_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "\udcff")  # has no UTF-8
    assert path.read_text() == "old"
    replace_text(path, "new: ×")
    assert path.read_text(encoding="utf-8") == "new: ×"
    assert os.listdir(tmp_path) == ["recipe.toml"]
