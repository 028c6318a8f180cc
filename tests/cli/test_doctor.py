"""``fieldguide doctor``: real scripts under observation, their own behaviour kept, and what is said of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fieldguide.cli import run

SCRIPT = """
import sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
x = torch.randn(640, 10)
y = (x[:, :3].sum(1) > 0).long()
model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 2))
{before}
optimizer = torch.optim.Adam({parameters}, lr={lr})
criterion = nn.CrossEntropyLoss()
for epoch in range(12):
    for a, b in DataLoader(TensorDataset(x, y), 32, shuffle=True):
        {clear}
        loss = criterion(model(a), b)
        loss.backward()
        optimizer.step()
print("last", loss.item(), sys.argv[1:], __name__)
{after}
"""


def script(folder: Path, **parts: str) -> Path:
    usual = {
        "before": "",
        "parameters": "model.parameters()",
        "lr": "3e-3",
        "clear": "optimizer.zero_grad()",
        "after": "",
    }
    path = folder / "program.py"
    path.write_text(SCRIPT.format(**{**usual, **parts}))
    return path


def consult(folder: Path, *command: str) -> tuple[subprocess.CompletedProcess, dict]:
    """In a process of its own, as a user would."""
    result = subprocess.run(
        [sys.executable, "-m", "fieldguide", "doctor", "run", "--json", "found.json", *command],
        capture_output=True, text=True, cwd=folder, check=False, timeout=120,
    )  # fmt: skip
    found = folder / "found.json"
    return result, json.loads(found.read_text()) if found.exists() else {}


def test_a_healthy_script_is_left_as_it_is(tmp_path):
    path = script(tmp_path)
    plain = subprocess.run([sys.executable, path, "--epochs", "3"], capture_output=True, text=True, check=True)
    result, found = consult(tmp_path, str(path), "--epochs", "3")
    assert result.returncode == 0
    assert result.stdout == plain.stdout
    assert found["schema"] == 1
    assert found["verdict"] == "healthy", found["findings"]
    assert found["causes"] == []
    assert "healthy: nothing wrong was seen in 240 steps" in result.stderr
    kept = tmp_path / "runs" / "doctor-program-1"
    assert json.loads((kept / "doctor.json").read_text())["verdict"] == "healthy"
    assert (kept / "trace.jsonl").stat().st_size > 1000


def test_a_planted_fault_is_named_with_what_to_do(tmp_path):
    result, found = consult(tmp_path, str(script(tmp_path, parameters="model[:1].parameters()")))
    assert result.returncode == 0
    assert found["verdict"] == "critical"
    assert found["causes"][0] == "parameter-not-in-optimizer"
    finding = found["findings"][0]
    assert {"rule", "slug", "severity", "step", "evidence", "likelihood", "suppressed_by", "fixes"} <= set(finding)
    assert finding["rule"] == "M08"
    assert finding["step"] == 0
    assert "2.weight" in finding["evidence"]
    assert set(finding["fixes"][0]) == {"title", "apply"}
    assert "1. parameter-not-in-optimizer" in result.stderr


def test_a_crash_keeps_its_traceback_and_code(tmp_path):
    result, found = consult(tmp_path, str(script(tmp_path, after="model(torch.randn(3, 11))")))
    assert result.returncode == 1
    assert "RuntimeError: " in result.stderr
    assert 'program.py", line' in result.stderr
    assert "scripts.py" not in result.stderr
    assert "the script ended with 1" in result.stderr
    assert found["verdict"] == "healthy"


def test_its_own_exit_code_is_kept(tmp_path):
    result, _ = consult(tmp_path, str(script(tmp_path, after="raise SystemExit(7)")))
    assert result.returncode == 7


def test_a_script_that_does_not_train_is_told_so(tmp_path):
    path = tmp_path / "other.py"
    path.write_text("print('hello')\n")
    result, found = consult(tmp_path, str(path))
    assert result.returncode == 0
    assert result.stdout == "hello\n"
    assert "there is no training to judge" in result.stderr
    assert found["verdict"] == "healthy"


def test_a_short_run_says_how_little_can_be_said(tmp_path):
    result, _ = consult(tmp_path, str(script(tmp_path, before="x, y = x[:32], y[:32]")))
    assert "in 12 steps" in result.stderr
    assert "too few to say more" in result.stderr


def test_preflight_stops_at_the_first_step(tmp_path):
    path = script(tmp_path, parameters="model[:1].parameters()")
    result = subprocess.run(
        [sys.executable, "-m", "fieldguide", "doctor", "preflight", str(path)],
        capture_output=True, text=True, cwd=tmp_path, check=False, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "last" not in result.stdout
    marked = [line.split() for line in result.stdout.splitlines() if line.strip()[:1] in {"✓", "✗", "·"}]
    lines = {point: mark for mark, point, *_ in marked}
    assert lines["optimizer"] == "✗"
    assert lines["data"] == lines["loss"] == "✓"
    assert lines["overfitting"] == "·"
    assert "2 of 4 parameters get gradients but are in no optimizer" in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (["run"], ["give a script"]),
        (["run", "--json"], ["--json needs a value"]),
        (["run", "--fast", "x.py"], ["unknown option --fast"]),
        (["run", "PLACE/none.py"], ["there is no script", "none.py"]),
        (["check", "PLACE/none"], ["there is no run and no trace", "none"]),
        (["check", "PLACE/empty"], ["empty", "no run to diagnose"]),
        (["check", "PLACE/text.jsonl"], ["text.jsonl", "line 1", "not a JSON object"]),
        (["check", "PLACE/words.jsonl"], ["words.jsonl", "record 1", "loss is 'low'"]),
        (["check", "PLACE/foreign.jsonl"], ["foreign.jsonl", "no record of a kind that is known"]),
        (["check", "PLACE/stepless.jsonl"], ["stepless.jsonl", "needs a step"]),
    ],
)
def test_bad_input_is_one_line(command, parts, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jsonl").write_text("hello\n")
    (tmp_path / "words.jsonl").write_text('{"kind": "step", "step": 1, "loss": "low"}\n')
    (tmp_path / "foreign.jsonl").write_text('{"iteration": 1, "value": 2.0}\n')
    (tmp_path / "stepless.jsonl").write_text('{"kind": "step", "loss": 1.0}\n')
    assert run(["doctor", *(word.replace("PLACE", str(tmp_path)) for word in command)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for part in parts:
        assert part in error
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())


def test_a_log_of_any_trainer_is_judged(tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    log.write_text(
        "".join(json.dumps({"kind": "step", "step": n, "loss": 2.3 + 0.05 * n}) + "\n" for n in range(1, 200))
    )
    assert run(["doctor", "check", str(log), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] != "healthy"
