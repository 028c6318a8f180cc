"""The command in many processes, as torchrun starts it."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fieldguide.cli import run
from fieldguide.errors import FieldguideError
from fieldguide.train.distributed import Place, device_of

COMMAND = ("--batch-size", "32", "--threads", "1", "--optimizer.name", "adamw")
VARIABLES = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


def torchrun(size: int, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    start = ("-m", "torch.distributed.run", "--nproc-per-node", str(size), "-m", "fieldguide", "train")
    return subprocess.run(
        [sys.executable, *start, *arguments], cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=250,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "tensor"])
def test_torchrun_leaves_one_run_as_one_process_does(strategy, tmp_path, capsys):
    model = ("vit_mini", "--data", "digits", "--name", "run", "--out", ".", *COMMAND)
    first = torchrun(
        2, tmp_path, *model, "--distributed", strategy, "--epochs", "1", "--steps", "20", "--checkpoint-every", "10"
    )
    assert first.returncode == 0, first.stderr
    assert len(re.findall(r"^test ", first.stdout, re.MULTILINE)) == 1  # one process speaks
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} >= {"model", "report.html", "doctor.json", "metrics.jsonl"}
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in steps if record["kind"] == "step"] == [*range(1, 21)]
    saved = sorted(path.name for path in (folder / "checkpoints" / "last").glob("state*.safetensors"))
    parts = ["state-00001-of-00002.safetensors", "state-00002-of-00002.safetensors"]
    assert saved == (["state.safetensors"] if strategy == "ddp" else parts)
    assert [path.name for path in (folder / "model").glob("*.safetensors")] == ["model.safetensors"]
    test = next(json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines() if '"test"' in line)
    assert run(["eval", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(test["test_accuracy"], abs=1e-3)


@pytest.mark.slow
def test_a_mistake_ends_all_processes_with_its_line(tmp_path):
    (tmp_path / "run").mkdir()
    done = torchrun(
        2, tmp_path, "resnet_mini", "--data", "digits", "--name", "run", "--out", ".", "--distributed", "ddp"
    )
    assert done.returncode != 0
    lines = {line for line in done.stderr.splitlines() if line.startswith("error:")}
    assert len(lines) == 1
    assert "run exists already" in lines.pop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "strategy"), [(signal.SIGKILL, "ddp"), (signal.SIGSTOP, "ddp"), (signal.SIGKILL, "fsdp")]
)
def test_a_training_that_loses_a_process_ends_and_goes_on_in_another_number(how, strategy, tmp_path):
    model = ("vit_mini", "--data", "digits", "--name", "run", "--out", ".", *COMMAND, "--epochs", "9")
    more = ("--distributed", strategy, "--checkpoint-every", "5", "--process-timeout", "5")
    start = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "fieldguide", "train")
    job = subprocess.Popen(
        [sys.executable, *start, *model, *more], cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert job.stdout
    line = next(line for line in job.stdout if line.startswith("epoch"))  # the training is under way
    ranks = [int(pid) for pid in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()]
    os.kill(max(ranks), how)
    _, said = job.communicate(timeout=120)
    assert job.returncode not in (0, None), line
    (error,) = {line for line in said.splitlines() if line.startswith("error:")}
    assert re.search(r"rank 1 gave no sign of life .*after step [1-9]", error)
    resumed = subprocess.run(
        [sys.executable, "-m", "fieldguide", "train", "--resume", "run"], cwd=tmp_path, capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr


def test_many_processes_need_torchrun(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run(["train", "resnet_mini", "--distributed", "ddp"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "torchrun --nproc-per-node 2 -m fieldguide train … --distributed ddp" in line


@pytest.mark.parametrize(
    ("arguments", "changes", "said"),
    [
        ([], {}, "torchrun has started 2 processes; say how they share the training: --distributed ddp"),
        (["--distributed", "dpp"], {}, "ddp"),
        (["--distributed", "ddp"], {"RANK": "2"}, "contradict each other: RANK=2, WORLD_SIZE=2"),
        (["--distributed", "ddp"], {"RANK": ""}, "RANK not set, though WORLD_SIZE is"),
        (["--distributed", "ddp", "--device", "mps"], {}, "each process takes its own device"),
        (["--distributed", "ddp", "--process-timeout", "0"], {}, "--process-timeout"),
    ],
)
def test_what_does_not_go_together_is_one_line(arguments, changes, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in (VARIABLES | changes).items():
        monkeypatch.setenv(name, value)
    assert run(["train", "resnet_mini", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_process_without_a_gpu_says_so(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(
        FieldguideError, match="process 1 of this machine has no GPU, as there are 1; start torchrun with"
    ):
        device_of(Place(1, 2, 1), "cuda")
    assert device_of(Place(0, 2, 0), "cuda") == "cuda:0"
