"""Every hostile file is refused in one line; nothing in it runs, nothing outside is touched, and it costs little."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.forks import python
from tests.hostile import commands, pictures, texts  # noqa: F401  (they enter what they build)
from tests.hostile.files import HOSTILE

ROOT = Path(__file__).parents[2]
MOST_MEMORY = 200_000_000
SLOW = {
    f"command {verb}" for verb in ("eval", "export", "profile", "look", "doctor-report", "predict-words", "schedule")
}


@pytest.fixture(scope="module")
def watcher() -> Iterator[subprocess.Popen]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}  # cannot weaken it
    command = [sys.executable, "-m", "tests.hostile.watcher"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.stdin
        process.stdin.close()


def asked(watcher: subprocess.Popen, entrance: str, path: Path, folder: Path) -> dict:
    assert watcher.stdin
    assert watcher.stdout
    watcher.stdin.write(json.dumps([entrance, str(path), str(folder)]) + "\n")
    watcher.stdin.flush()
    return json.loads(watcher.stdout.readline())


def listing(folder: Path, own: set[Path]) -> set[Path]:
    """What lies there, but for what a command may write into its own run."""
    return {path.relative_to(folder) for path in folder.rglob("*") if not own & {path, *path.parents}}


def test_there_are_many():
    assert len(HOSTILE) >= 60


def cases() -> list:
    """Verbs that read what others read too are tried with the slow tests."""
    names = {name: name[:60].encode("ascii", "replace").decode() for name in HOSTILE}
    marks = {name: [pytest.mark.slow] * (HOSTILE[name][0] in SLOW) for name in HOSTILE}
    return [pytest.param(name, id=shown, marks=marks[name]) for name, shown in names.items()]


@pytest.mark.parametrize("name", cases())
def test_it_is_refused_and_does_nothing(watcher: subprocess.Popen, tmp_path: Path, name: str):
    entrance, build = HOSTILE[name]
    canary, folder = tmp_path / "canary", tmp_path / "folder"
    folder.mkdir()
    path = build(folder, canary)
    own = {path} if entrance.startswith("command ") else set()
    before = listing(tmp_path, own)
    answer = asked(watcher, entrance, path, folder)
    assert "crash" not in answer, answer
    assert answer["problem"], "it was believed"
    assert "\n" not in answer["problem"]
    assert "Traceback" not in answer["problem"]
    assert len(answer["problem"]) < 700
    assert not answer["events"]
    assert answer["memory"] < MOST_MEMORY
    assert not canary.exists()
    assert listing(tmp_path, own) == before


@pytest.mark.parametrize("kind", texts.PASSED_OVER)
def test_what_others_would_run_is_not_even_read(watcher: subprocess.Popen, tmp_path: Path, kind: str):
    canary, folder = tmp_path / "canary", tmp_path / "folder"
    folder.mkdir()
    answer = asked(watcher, "weights-of-images", texts.passed_over(folder, kind), folder)
    assert answer["problem"] == ""
    assert not answer["events"]
    assert answer["memory"] < MOST_MEMORY
    assert not canary.exists()


@pytest.mark.parametrize(("entrance", "code"), [
    ("os.system", "import os; os.system('true')"), ("socket", "import socket; socket.socket()"),
    ("write", "open('../outside', 'w')"),
])  # fmt: skip
def test_the_watcher_sees_what_it_is_to_see(tmp_path: Path, entrance: str, code: str):
    (tmp_path / "inside").mkdir()
    program = f"""
import os, sys
from tests.hostile.watcher import watch
logged, log = os.pipe()
watch(log, {str(tmp_path / "inside")!r})
try:
    exec({code!r})
except OSError:
    pass
os.close(log)
print(os.read(logged, 1000).decode())
"""
    done = python("-c", program, cwd=tmp_path / "inside")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
