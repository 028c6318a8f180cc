"""What saving costs a training: the wait for a save beside it, and the share of checksums in a save.

    python -m benchmarks.saves [--rounds 15] [--docs]

The state is that of AdamW after a step: three float32 tensors for every weight. In each round the same state is saved
in every way in turn; the medians are printed. Keep the machine idle.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from benchmarks.pages import write
from fieldguide.train.checkpoint import Checkpoints, disk

SIZES = {"2 million weights": (2, 40), "6 million weights": (6, 100), "20 million weights": (20, 150)}
"""Millions of weights, and in how many tensors."""


CHECKSUM = disk.Checksum


class Unread(CHECKSUM):
    """A checksum that looks at nothing."""

    def update(self, data: disk.Bytes) -> None: ...


def state_of(millions: int, tensors: int) -> dict[str, Any]:
    size = millions * 1_000_000 // tensors
    weights = {f"layer{i}.weight": torch.randn(size) for i in range(tensors)}
    moments = {
        i: {"step": torch.tensor(1.0), "exp_avg": torch.randn(size), "exp_avg_sq": torch.rand(size)}
        for i in range(tensors)
    }
    return {"model": weights, "optimizer": {"state": moments}}


def seconds(act: Callable[[], object]) -> float:
    started = perf_counter()
    act()
    return perf_counter() - started


def measure(folder: Path, state: dict[str, Any], rounds: int) -> dict[str, float]:
    """Median seconds of a save, of one without checksums, and of the wait for one beside the training."""
    checkpoints = Checkpoints(folder)
    times: dict[str, list[float]] = {"save": [], "unchecked": [], "wait": []}
    for step in range(rounds + 2):  # the first two warm up memory and disk
        now = {"save": seconds(partial(checkpoints.save, state, step=step))}
        disk.Checksum = Unread
        now["unchecked"] = seconds(partial(checkpoints.save, state, step=step))
        disk.Checksum = CHECKSUM
        now["wait"] = seconds(partial(checkpoints.begin, state, step=step))
        checkpoints.wait()
        for name, value in now.items() if step >= 2 else ():
            times[name].append(value)
    return {name: median(values) for name, values in times.items()}


def table(results: dict[str, tuple[float, dict[str, float]]]) -> str:
    lines = [
        "| state | MB | a save, ms | of which checksums | wait for a save beside the training, ms | share of a save |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, (size, times) in results.items():
        checksums, share = times["save"] / times["unchecked"] - 1, times["wait"] / times["save"]
        cells = f"{times['save'] * 1e3:.1f} | {checksums:.1%} | {times['wait'] * 1e3:.1f} | {share:.1%}"
        lines.append(f"| AdamW, {name} | {size / 1e6:.0f} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--docs", action="store_true", help="write the table into docs/reliability.md")
    options = parser.parse_args()
    results = {}
    for name, (millions, tensors) in SIZES.items():
        with tempfile.TemporaryDirectory(prefix="saves-") as folder:
            size = 12e6 * millions
            if shutil.disk_usage(folder).free > 5 * size:
                times = measure(Path(folder) / "checkpoints", state_of(millions, tensors), options.rounds)
                results[name] = size, times
    print(table(results))
    if options.docs:
        write("reliability", "saves", table(results))
