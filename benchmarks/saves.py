"""What saving costs a training: the wait for a save beside it, all that its steps lose, and the share of checksums.

    python -m benchmarks.saves [--rounds 15] [--docs]

A deep linear network is trained by AdamW: three float32 tensors for every weight. In each round the same state is saved
in every way in turn, the one beside the training with steps of it until all is on the disk and as many without a save
after it; the medians are printed. Keep the machine idle.
"""

import argparse
import math
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import nn

from benchmarks.pages import write
from fieldguide.train.checkpoint import Checkpoints, disk

SIZES = {"2 million weights": (2, 40), "6 million weights": (6, 100), "20 million weights": (20, 150)}
"""Millions of weights, and in how many layers."""
BATCH = 64


CHECKSUM = disk.Checksum


class Unread(CHECKSUM):
    """A checksum that looks at nothing."""

    def update(self, data: disk.Bytes) -> None: ...


class Training:
    """A network of square layers, whose signals neither grow nor vanish, and the steps that train it."""

    def __init__(self, millions: int, layers: int):
        width = math.isqrt(millions * 1_000_000 // layers)
        self.model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
        for weight in self.model.parameters():
            nn.init.orthogonal_(weight)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, foreach=True)
        self.inputs = torch.randn(BATCH, width)
        self.step()

    def step(self) -> None:
        self.model(self.inputs).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @property
    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}


def seconds(act: Callable[[], object]) -> float:
    started = perf_counter()
    act()
    return perf_counter() - started


def measure(folder: Path, training: Training, rounds: int) -> dict[str, float]:
    """Median seconds of a save, of one without checksums, and of what one beside the training costs it.

    The wait is until the training may go on, ``step`` is one without a save, and ``lost`` is all by which a save and
    the steps until it is on the disk take longer than as many steps.
    """
    checkpoints = Checkpoints(folder)
    times: dict[str, list[float]] = {"save": [], "unchecked": [], "wait": [], "step": [], "lost": []}
    for step in range(rounds + 2):  # the first two warm up memory and disk
        now = {}
        for name, checksum in (("unchecked", Unread), ("save", CHECKSUM)):
            disk.Checksum = checksum
            training.step()  # before each, for what a step leaves in the caches makes a save faster or slower
            now[name] = seconds(partial(checkpoints.save, training.state, step=step))
        training.step()
        started, steps = perf_counter(), 0
        saved = checkpoints.begin(training.state, step=step)
        now["wait"] = perf_counter() - started
        while not saved.done() or not steps:
            training.step()
            steps += 1
        beside = perf_counter() - started
        alone = sum(seconds(training.step) for _ in range(steps))
        now |= {"step": alone / steps, "lost": beside - alone}
        for name, value in now.items() if step >= 2 else ():
            times[name].append(value)
    return {name: median(values) for name, values in times.items()}


def table(results: dict[str, tuple[float, dict[str, float]]]) -> str:
    lines = [
        "| state | MB | a save, ms | of which checksums | a step, ms | wait for a save beside the training, ms "
        "| share of a save | lost to it in all, with slower steps, ms | share of a save |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, (size, times) in results.items():
        save, checksums = times["save"], times["save"] / times["unchecked"] - 1
        cells = f"{save * 1e3:.1f} | {checksums:.1%} | {times['step'] * 1e3:.1f}"
        shares = " | ".join(f"{times[part] * 1e3:.1f} | {times[part] / save:.1%}" for part in ("wait", "lost"))
        lines.append(f"| AdamW, {name} | {size / 1e6:.0f} | {cells} | {shares} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--docs", action="store_true", help="write the table into docs/reliability.md")
    options = parser.parse_args()
    results = {}
    for name, (millions, layers) in SIZES.items():
        with tempfile.TemporaryDirectory(prefix="saves-") as folder:
            size = 12e6 * millions
            if shutil.disk_usage(folder).free > 5 * size:
                times = measure(Path(folder) / "checkpoints", Training(millions, layers), options.rounds)
                results[name] = size, times
    print(table(results))
    if options.docs:
        write("reliability", "saves", table(results))
