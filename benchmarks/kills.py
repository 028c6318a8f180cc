"""Does a training survive SIGKILL? Kill it at random moments, resume it, and compare with one that nobody disturbed.

    python -m benchmarks.kills [--kills 100] [--seed 0] [--epochs 4] [--out kills.json]

Every life is the real command, ``fieldguide train …`` and then ``fieldguide train --resume RUN``, in a process forked
from one that has done the undisturbed run and so has everything imported already. A checkpoint is saved every second
step, so that many kills fall into a save. After each kill every checkpoint in the folder must load. A run that reaches
its end must hold the very bytes of the undisturbed run's ``model.safetensors`` and the same losses, rates and gradient
norms in ``metrics.jsonl``, every step once; then the next run begins, until all kills are used up.
"""

import argparse
import hashlib
import json
import os
import random
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from fieldguide import cli, trace
from fieldguide.errors import DamagedFile
from fieldguide.train.checkpoint import load
from fieldguide.train.run import RunFolder

TRAIN = (
    *("train", "lenet5", "--data", "digits", "--threads", "1", "--checkpoint-every", "2"),
    *("--accumulation", "2", "--ema", "0.9", "--stopping.patience", "10", "--device", "cpu"),
    *("--augment.shift", "0.1", "--augment.rotate", "10", "--augment.mixup", "0.2"),
)
"""Everything that carries state: accumulation, averaging, patience, random augmentation."""


@dataclass
class Result:
    kills: int = 0
    moments: dict[str, int] = field(default_factory=dict)
    """Where the kills fell, as far as the folder tells."""
    runs: int = 0
    """Runs that reached their end."""
    identical: int = 0
    """Of these, the ones with the undisturbed run's weights and records, bit for bit."""
    checkpoints_read: int = 0
    unloadable: list[str] = field(default_factory=list)
    failed_resumes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.runs > 0 and self.identical == self.runs and not self.unloadable and not self.failed_resumes


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kills", description="SIGKILL a training at random moments."
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=4, help="length of each run")
    parser.add_argument("--out", type=Path, help="write the counts as JSON")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        result = survive(options.kills, options.seed, options.epochs, Path(folder))
    print(table(result))
    if options.out:
        options.out.write_text(json.dumps(asdict(result) | {"passed": result.passed}, indent=2) + "\n")
    return 0 if result.passed else 1


def survive(kills: int, seed: int, epochs: int, folder: Path) -> Result:
    """``kills`` lives that end by SIGKILL, and the undisturbed ones that finish what is left."""
    started = time.perf_counter()
    undisturbed, train = folder / "undisturbed", [*TRAIN, "--epochs", str(epochs), "--out", str(folder)]
    if (code := cli.run([*train, "--name", undisturbed.name])) != 0:
        raise SystemExit(f"the undisturbed run failed with {code}")
    expected = outcome(undisturbed)
    longest_life = sum(record["seconds"] for record in trace.read(RunFolder(undisturbed).metrics, "epoch")) / 2
    chance, result, run = random.Random(seed), Result(), folder / "run-1"
    while result.kills < kills or not result.runs or run.exists():
        spared = result.kills >= kills or RunFolder(run).model.exists()  # only figures and report are left
        before = saved(run)
        child = begin(run, train)
        if result.kills % 4 != 3:  # every fourth may die before it trains
            wait_for_a_save(child, run, before)
        code = wait(child, None if spared else chance.uniform(0, longest_life))
        if code == -signal.SIGKILL:
            result.kills += 1
            result.moments[moment(run)] = result.moments.get(moment(run), 0) + 1
            examine(run, result)
        elif code == 0:
            result.runs += 1
            result.identical += outcome(run) == expected
            shutil.rmtree(run)
            run = folder / f"run-{result.runs + 1}"
        else:
            result.failed_resumes.append(f"after {result.kills} kills, exit {code}: {log(run)[-500:]}")
            shutil.rmtree(run)
    result.seconds = time.perf_counter() - started
    return result


def begin(run: Path, train: list[str]) -> int:
    """Fork a life of this run: its first, or one that goes on where the last was killed."""
    if not saved(run):
        shutil.rmtree(run, ignore_errors=True)  # killed before the first step: there is nothing to go on with
    command = ["train", "--resume", str(run)] if run.exists() else [*train, "--name", run.name]
    child = os.fork()
    if child == 0:
        output = os.open(run.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os._exit(cli.run(command))
    return child


def wait(child: int, patience: float | None = None) -> int:
    """The child's exit code; killed if it is not done when ``patience`` (in seconds) is over."""
    descriptor = os.pidfd_open(child)
    ended, _, _ = select.select([descriptor], [], [], patience)
    os.close(descriptor)
    if not ended:
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def saved(run: Path) -> set[Path]:
    return set(run.glob("checkpoints/*-step-*"))


def wait_for_a_save(child: int, run: Path, before: set[Path]) -> None:
    """Until this life has saved something itself, or is over."""
    while saved(run) <= before and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.002)


def moment(run: Path) -> str:
    """What the killed process was doing, from what it left."""
    if not saved(run):
        return "before the first checkpoint"
    checkpoints = RunFolder(run).checkpoints
    if list(checkpoints.folder.glob(".*.tmp")):
        return "while a checkpoint was written"
    newest = checkpoints.numbered()[-1]
    if not (checkpoints.folder / "last").exists() or (checkpoints.folder / "last").resolve() != newest.resolve():
        return "while links were moved"
    if list(checkpoints.folder.glob(".*.old")) or len(checkpoints.numbered()) > 3:
        return "while old checkpoints were removed"
    if RunFolder(run).model.exists():
        return "after training (test, figures, report)"
    return "between saves"


def examine(run: Path, result: Result) -> None:
    for folder in RunFolder(run).checkpoints.numbered():
        try:
            load(folder)
        except DamagedFile as error:
            result.unloadable.append(str(error))
        result.checkpoints_read += 1


def outcome(run: Path) -> tuple[str, list[dict[str, Any]]]:
    """The final weights' SHA-256 and every record without its times."""
    weights = hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
    records = trace.read(RunFolder(run).metrics)
    return weights, [{key: value for key, value in record.items() if "second" not in key} for record in records]


def log(run: Path) -> str:
    return run.with_suffix(".log").read_text(errors="replace").strip()


def table(result: Result) -> str:
    rows = [("kills", result.kills), *((f"  {moment}", count) for moment, count in sorted(result.moments.items()))]
    rows += [("runs that reached their end", result.runs), ("  bit-identical to the undisturbed run", result.identical)]
    rows += [("checkpoints read after kills", result.checkpoints_read), ("  unloadable", len(result.unloadable))]
    rows += [("resumes that failed", len(result.failed_resumes)), ("seconds", f"{result.seconds:.0f}")]
    lines = [f"{name:<45} {value:>6}" for name, value in rows]
    return "\n".join([*lines, *result.unloadable, *result.failed_resumes])


if __name__ == "__main__":
    raise SystemExit(main())
