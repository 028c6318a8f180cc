"""What ``tune`` makes of our networks, beside other libraries as they come: eager fp32, contiguous, plain AdamW.

    python -m benchmarks.tuned [--models resnet50 …] [--work inference training] [--tolerances 1e-4 1e-2] [--rounds 9]
                               [--seconds 30] [--compile-seconds 0] [--out FILE.json] [--docs]

Each row is one network, tuned with one tolerance (1e-4 keeps to fp32, 1e-2 lets bf16 in), and then measured in turns
with the same network of torchvision or transformers, with the same weights. ``speedup`` is the ratio of the medians,
and ``error`` what the tuned network's answers (or a step's loss and gradient, see ``docs/tune.md``) differ by from our
untuned ones. With ``--docs`` the table goes into ``docs/tune.md``.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import geometric_mean

import torch
from torch import Tensor, nn
from torch.optim import AdamW

import fieldguide as fg
from benchmarks.pages import merged
from benchmarks.peers import peer
from benchmarks.timing import Times, in_turns
from fieldguide.profile.measuring import mean_square
from fieldguide.profile.tuning.memory import keep_memory
from fieldguide.profile.tuning.tuned import Tuned

BATCHES = {
    "alexnet": 8, "vgg16": 1, "resnet50": 8, "inception_v3": 8, "mobilenet_v2": 8, "efficientnet_b0": 8,
    "regnet_y_400mf": 8, "vit_b_16": 2, "swin_t": 4, "bert_base": 8, "gpt2": 4, "t5_small": 8,
}  # fmt: skip
"""Samples of a pass: what keeps each under two seconds on two cores."""
BLOCKS = 3


@dataclass(frozen=True)
class Row:
    model: str
    work: str
    tolerance: float
    milliseconds: float
    """Of ours, tuned."""
    speedup: float
    """Over the other library's default."""
    error: float
    settings: str
    tuning_speedup: float
    """Over our own default, as ``tune`` says."""

    def __str__(self) -> str:
        return (
            f"{self.model:<16} {self.work:<9} {self.tolerance:g}  {self.milliseconds:8.1f} ms  {self.speedup:.2f}x  "
            f"error {self.error:.0e}  {self.settings}"
        )


def inference(model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    @torch.no_grad()
    def run() -> None:
        model(*inputs)

    return run


def training(model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    optimizer = AdamW(model.train().parameters(), lr=1e-6)

    def run() -> None:
        mean_square(model(*inputs)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def measure(name: str, work: str, tolerance: float, options: argparse.Namespace) -> Row:
    pair = peer(name, BATCHES[name])
    limits = {"seconds": options.seconds, "compile_seconds": options.compile_seconds}
    found: Tuned = fg.tune(pair.ours, pair.inputs, tolerance, train=work == "training", **limits)
    if work == "training":
        ours, theirs = found.step or training(pair.ours, pair.inputs), training(pair.theirs, pair.inputs)
    else:
        ours, theirs = inference(found.model.eval(), pair.inputs), inference(pair.theirs.eval(), pair.inputs)
    times = in_blocks({"ours": ours, "theirs": theirs}, options.rounds)
    mine = times["ours"].median
    settings = ", ".join(found.settings) or "none"
    ratio = times["theirs"].median / mine
    return Row(name, work, tolerance, 1e3 * mine, ratio, found.error, settings, found.speedup)


def in_blocks(candidates: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Times]:
    """``in_turns``, but a block of rounds each: kept memory is of the process, and the other library has none of it."""
    times = {name: Times() for name in candidates}
    for _ in range(BLOCKS):
        for name, run in candidates.items():
            keep_memory(False)
            taken = in_turns({name: run}, max(1, rounds // BLOCKS))[name]
            times[name].clean += taken.clean
            times[name].disturbed += taken.disturbed
    return times


def tables(rows: list[Row]) -> dict[str, str]:
    """One for each kind of work and tolerance, by their names."""
    found = {}
    for work, tolerance in sorted({(row.work, row.tolerance) for row in rows}):
        chosen = [row for row in rows if (row.work, row.tolerance) == (work, tolerance)]
        mean, least = geometric_mean([row.speedup for row in chosen]), min(row.speedup for row in chosen)
        lines = [
            f": {mean:.2f} times as fast (geometric mean of {len(chosen)}), at least {least:.2f} "
            f"(torch {torch.__version__}, {torch.get_num_threads()} threads)",
            "",
            "| network | ms | speed-up | error | settings |",
            "|---|---|---|---|---|",
            *(
                f"| {row.model} | {row.milliseconds:,.1f} | {row.speedup:.2f} | {row.error:.0e} | {row.settings} |"
                for row in chosen
            ),
        ]
        found[f"{work}, tolerance {tolerance:g}"] = "\n".join(lines)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--work", nargs="+", choices=("inference", "training"), default=["inference", "training"])
    parser.add_argument("--tolerances", nargs="+", type=float, default=[1e-4, 1e-2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--compile-seconds", type=float, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--docs", action="store_true")
    options = parser.parse_args()
    rows = []
    for name in options.models:
        for work in options.work:
            for tolerance in options.tolerances:
                rows.append(measure(name, work, tolerance, options))
                print(rows[-1], flush=True)
                if options.out:  # what is there already outlives an interruption
                    options.out.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    print("\n\n".join(heading + text for heading, text in tables(rows).items()))
    if options.docs:
        merged("tune", "tuned", tables(rows))
