"""``fieldguide watch``: it says where, answers, writes nothing, and ends as it is told."""

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from fieldguide.cli import run

STEP = {"kind": "step", "epoch": 0, "lr": 0.1, "samples": 4, "seconds": 0.1}
LOG = [
    *({**STEP, "step": n, "loss": 2.0 / n} for n in (1, 2)),
    {"kind": "test", "step": 2, "test_loss": 0.5},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "one"
    (path / "checkpoints").mkdir(parents=True)
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in LOG))
    return path


def test_it_says_where_answers_and_writes_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    command = [sys.executable, "-m", "fieldguide", "watch", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        line = process.stdout.readline()
        address = re.fullmatch(rf"watching {folder} at (http://127\.0\.0\.1:\d+/); Ctrl-C ends it\n", line)
        assert address, (line, process.stderr.read())
        with urlopen(f"{address[1]}state.json", timeout=20) as answer:
            state = json.load(answer)
        assert (state["step"], state["finished"], state["doctor"]["verdict"]) == (2, True, "healthy")
        process.send_signal(signal.SIGINT)
        assert (process.wait(timeout=20), process.stderr.read()) == (130, "")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_mistakes_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        for arguments, words in (
            ([str(folder.with_name("ones"))], "there is no run at"),
            ([str(folder), "--port", str(taken)], f"--port {taken}: "),
            ([str(folder), "--port", "70000"], "65535"),
            ([str(folder.parent)], "is not a run folder"),
        ):
            assert run(["watch", *arguments]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert words in line
