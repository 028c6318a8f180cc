"""``fieldguide doctor``: real scripts under observation, their own behaviour kept, and what is said of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from markupsafe import escape
from tests.forks import python

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
    result = python("-m", "fieldguide", "doctor", "run", "--json", "found.json", *command, cwd=folder)
    found = folder / "found.json"
    return result, json.loads(found.read_text()) if found.exists() else {}


def test_a_healthy_script_is_left_as_it_is(tmp_path):
    path = script(tmp_path)
    plain, result = (
        subprocess.run([sys.executable, *words, path, "--epochs", "3"], capture_output=True, text=True, cwd=tmp_path)
        for words in ((), ("-m", "fieldguide", "doctor", "run", "--json", "found.json"))
    )
    found = json.loads((tmp_path / "found.json").read_text())
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
    result = python("-m", "fieldguide", "doctor", "preflight", path, cwd=tmp_path)
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
        (["check", "PLACE/layers.jsonl"], ["layers.jsonl", "record 1", "layers.0.dead is 'many' and not a number"]),
        (["check", "PLACE/nameless.jsonl"], ["nameless.jsonl", "lacks the field 'name'"]),
        (["check", "PLACE/foreign.jsonl"], ["foreign.jsonl", "no record of a kind that is known"]),
        (["check", "PLACE/stepless.jsonl"], ["stepless.jsonl", "needs a step"]),
    ],
)
def test_bad_input_is_one_line(command, parts, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.jsonl").write_text("hello\n")
    (tmp_path / "words.jsonl").write_text('{"kind": "step", "step": 1, "loss": "low"}\n')
    (tmp_path / "layers.jsonl").write_text('{"kind": "sample", "step": 1, "layers": {"0": {"dead": "many"}}}\n')
    (tmp_path / "nameless.jsonl").write_text('{"kind": "setup", "step": 0, "layers": [{"p": 0.1}]}\n')
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


CRASHING = """
import sys
import torch
from torch import nn

which = sys.argv[1]
torch.manual_seed(0)


class Log(nn.Module):
    def forward(self, x):
        return torch.log(x)


model = nn.Sequential(
    nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), Log() if which == "nan" else nn.Tanh(),
    nn.Linear(16 if which == "shape" else 32, 2),
)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for step in range(20):
    x, y = torch.randn(32, 10), torch.randint(0, 2, (32,))
    optimizer.zero_grad()
    output = model(x)
    loss = criterion(output, y[:16] if which == "target" else y)
    if not torch.isfinite(loss):
        raise ValueError("the loss is not finite")
    loss.backward()
    if which == "backwards only":
        continue
    optimizer.step()
    if which == "by hand" and step == 7:
        output @ torch.randn(3, 3)
    if which == "interrupt" and step == 7:
        raise KeyboardInterrupt
    if which == "kill" and step == 7:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("which", "seen"),
    [
        (
            "shape",
            [
                "0 (Linear) made [32, 32] of [32, 10]",
                "1 (ReLU) made [32, 32] of [32, 32]",
                "2 (Linear) made [32, 32] of [32, 32]",
                "3 (Tanh) made [32, 32] of [32, 32]",
                "4 (Linear) was given [32, 32]",
            ],
        ),
        ("target", ["4 (Linear) made [32, 2] of [32, 32]", "CrossEntropyLoss was given [32, 2] and [16]"]),
        ("nan", ["the first module whose output is not finite is 3 (Log)"]),
        ("by hand", ["<module> had x [32, 10], y [32], output [32, 2]"]),
        ("interrupt", []),
    ],
)
def test_a_crash_is_told_as_python_tells_it_and_then_by_what_was_seen(which, seen, tmp_path):
    path = tmp_path / "program.py"
    path.write_text(CRASHING)
    plain = python(path, which)
    result, found = consult(tmp_path, str(path), which)
    assert result.returncode == (130 if which == "interrupt" else 1)
    own = [line for line in plain.stderr.splitlines() if str(path) in line or line[:1].strip()]
    told, _, page = result.stderr.partition("\ndoctor    ")
    assert [line for line in told.splitlines() if str(path) in line or line[:1].strip()] == own
    assert "fieldguide" not in told
    for line in seen:
        assert line in page
    assert "stopped-too-early" not in [finding["slug"] for finding in found["findings"]]
    if seen:
        (folder,) = (tmp_path / "runs").iterdir()
        end = json.loads((folder / "trace.jsonl").read_text().splitlines()[-1])
        assert end["where"].splitlines()[-1].startswith(seen[-1])


def test_a_killed_script_leaves_what_was_known(tmp_path, capsys):
    path = tmp_path / "program.py"
    path.write_text(CRASHING)
    result, _ = consult(tmp_path, str(path), "kill")
    assert result.returncode == -9
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "doctor.json").read_text())["schema"] == 1
    assert run(["doctor", "check", str(folder)]) == 0
    assert "in 5 steps" in capsys.readouterr().out


def test_a_script_without_a_step_is_told_what_it_did(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(CRASHING)
    result, _ = consult(tmp_path, str(path), "backwards only")
    assert "backward was called 20 times" in result.stderr
    path.write_text("print('no torch')\n")
    result, _ = consult(tmp_path, str(path))
    assert "no network of PyTorch was called" in result.stderr


def test_a_training_without_modules_is_judged(tmp_path):
    path = tmp_path / "program.py"
    path.write_text("""
import torch
w, x = torch.zeros(5, 1, requires_grad=True), torch.randn(64, 5)
optimizer = torch.optim.SGD([w], lr=0.1)
for step in range(60):
    optimizer.zero_grad()
    ((x @ w - x.sum(1, keepdim=True)) ** 2).mean().backward()
    optimizer.step()
""")
    result, found = consult(tmp_path, str(path))
    assert found["verdict"] == "healthy"
    assert "in 60 steps" in result.stderr


@pytest.mark.parametrize("option", ["--help", "--version", "--json"])
def test_everything_after_the_name_of_a_script_is_the_scripts(option, tmp_path):
    path = tmp_path / "program.py"
    path.write_text("import sys\nprint(sys.argv[1:])\n")
    result, found = consult(tmp_path, str(path), option)
    assert result.stdout == f"['{option}']\n"
    assert found["schema"] == 1


def test_settings_outside_their_usual_range_get_advice_and_no_alarm(tmp_path, capsys):
    recipe, trace = tmp_path / "mine.toml", tmp_path / "trace.jsonl"
    recipe.write_text('[optimizer]\nname = "sgd"\nlr = 30.0\n')
    assert run(["doctor", "check", str(recipe)]) == 0
    assert capsys.readouterr().out.startswith("learning rate 30 for SGD")
    recipe.write_text('[optimizer]\nname = "adamw"\n')
    assert run(["doctor", "check", str(recipe)]) == 0
    assert "usual range" in capsys.readouterr().out
    setup = {"kind": "setup", "step": 0, "optimizers": [{"type": "SGD", "lr": 30.0}]}
    steps = ({"kind": "step", "step": n, "loss": 2.0 * 0.97**n} for n in range(1, 150))
    trace.write_text("".join(json.dumps(record) + "\n" for record in (setup, *steps)))
    assert run(["doctor", "check", str(trace)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("doctor    healthy")
    assert "advice    learning rate 30 for SGD" in said


def test_the_report_of_a_run_under_observation_stands_alone(tmp_path, capsys):
    consult(tmp_path, str(script(tmp_path, parameters="model[:1].parameters()")))
    (folder,) = (tmp_path / "runs").iterdir()
    assert run(["doctor", "check", str(folder), "--report"]) == 0
    assert str(folder / "report.html") in capsys.readouterr().err
    page = (folder / "report.html").read_text()
    assert "M08 parameter-not-in-optimizer" in page
    assert "Make the optimizer from all of model.parameters()" in page
    assert "data:image/png;base64," in page
    assert "http" not in page
    trace = folder / "trace.jsonl"
    assert run(["doctor", "check", str(trace), "--report"]) == 2
    assert "is no folder" in capsys.readouterr().err


@pytest.mark.slow
def test_the_report_of_a_training_of_ours_tells_what_the_doctor_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sick = ["--optimizer.name", "sgd", "--optimizer.lr", "1e-7", "--epochs", "2"]
    assert (
        run(["train", "resnet_mini", "--threads", "1", "--data", "digits", *sick, "--out", "runs", "--name", "sick"])
        == 0
    )
    folder = tmp_path / "runs" / "sick"
    found = json.loads((folder / "doctor.json").read_text())
    assert found["findings"]
    page = (folder / "report.html").read_text()
    for finding in found["findings"]:
        name = f"{finding['rule']} {finding['slug']}"
        assert f'<a href="#{name.replace(" ", "-")}">{name}</a>' in page
        assert f'<article id="{name.replace(" ", "-")}">' in page
        for said in ("evidence", "threshold", "refute"):
            assert str(escape(finding[said])) in page
        assert all(str(escape(fix["title"])) in page for fix in finding["fixes"])
    assert f"<dt>doctor</dt><dd>{found['verdict']}" in page
    assert "Signs of health" in page
    assert run(["report", "runs/sick"]) == 0
    assert (folder / "report.html").read_text() == page
