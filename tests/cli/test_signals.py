"""SIGTERM and Ctrl-C in every phase of the command, also before and after the training."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fieldguide.cli import run

WAITING = """
import faulthandler, os, sys
faulthandler.dump_traceback_later(100, exit=True)  # should it ever hang, it says where
event, name, where = sys.argv[1:4]
seen = []

def hook(happened, details):  # what Python itself reports: imports, and files that are opened
    if happened == event and not seen and str(details[0]).endswith(name) and where in str(details[0]):
        seen.append(name)
        os.write(1, b"here\\n")
        os.read(0, 1)

sys.addaudithook(hook)
from fieldguide.cli import main
main(sys.argv[4:])
"""
COMMAND = (
    *("train", "mlp", "--data", "table.csv", "--target", "y", "--name", "run", "--epochs", "3", "--batch-size", "16"),
    *("--threads", "1"),
)
PHASES = {  # the event, its name, and a folder in it: what there is to resume
    "import": ("import", "torch", "", False),
    "data": ("open", "table.csv", "", False),
    "recipe": ("open", ".recipe.toml.tmp", "run", False),
    "save": ("open", "manifest.json", "checkpoints", True),
    "log": ("open", "metrics.jsonl", "run", True),
    "model": ("open", "config.json", "model", True),
    "doctor": ("open", ".doctor.json.tmp", "run", True),
    "report": ("open", "report.html.tmp", "", True),
}
QUICK = ("report",)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows = [f"{i % 7},{(i * 5) % 11},{(i % 7) * 2 - (i * 5) % 11}" for i in range(160)]
    return "\n".join(["a,b,y", *rows]) + "\n"


@pytest.fixture(scope="module")
def unbroken(table: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, before = tmp_path_factory.mktemp("unbroken"), os.getcwd()
    (folder / "table.csv").write_text(table)
    os.chdir(folder)
    try:
        assert run([*COMMAND, "--out", "."]) == 0
    finally:
        os.chdir(before)
    return folder / "run"


@pytest.mark.parametrize("phase", [pytest.param(p, marks=[pytest.mark.slow] * (p not in QUICK)) for p in PHASES])
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_the_command_stops_with_its_code_and_resumes(
    unbroken: Path, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str, number: int
) -> None:
    *event, begun = PHASES[phase]
    (tmp_path / "table.csv").write_text(table)
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", WAITING, *event, *COMMAND, "--out", "."]
    pipe, environment = subprocess.PIPE, os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    assert child.stdout
    said = b""
    while said != b"here\n":
        said = child.stdout.readline()
        assert said, f"it ended before {phase}: {child.stderr.read() if child.stderr else ''}"
    child.send_signal(number)
    _, errors = child.communicate(b"!", timeout=120)
    assert child.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[number], errors
    assert b"Traceback" not in errors
    assert (b"go on with: fieldguide train --resume run" in errors) == begun
    if begun:
        assert run(["train", "--resume", "run"]) == 0
        weights, expected = (load_file(path / "model" / "model.safetensors") for path in (Path("run"), unbroken))
        assert all(weights[name].equal(tensor) for name, tensor in expected.items())
        assert (tmp_path / "run" / "report.html").exists()
    else:
        assert not (tmp_path / "run").exists()
