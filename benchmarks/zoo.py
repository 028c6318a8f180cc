"""Our networks against the same ones of torchvision, timm and transformers: same weights and settings, in turns.

    python -m benchmarks.zoo [--models resnet18 gpt2 …] [--types fp32 bf16] [--layouts NCHW channels_last] [--batch 4]
                             [--side 224] [--rounds 9] [--out FILE.json] [--docs]

Each row is one network in one setting: inference or a whole training step (forward, backward, fused SGD), with weights
and inputs in fp32 or bf16, images in contiguous or channels-last memory. ``ratio`` is our best time over theirs (what
disturbs a run only adds to it), below 1 is faster; ``noise`` is the same ratio between theirs and a second copy of it,
which is 1 on a perfect machine.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import geometric_mean

import torch
from torch import Tensor, nn

from benchmarks.pages import write
from benchmarks.peers import PEERS, peer
from benchmarks.timing import in_turns

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Row:
    model: str
    library: str
    work: str
    precision: str
    layout: str
    milliseconds: float
    """Of ours."""
    ratio: float
    noise: float

    def __str__(self) -> str:
        setting = f"{self.work:<9} {self.precision}  {self.layout:<13}"
        times = f"{self.milliseconds:8.1f} ms   {self.ratio:.3f}   noise {self.noise:.3f}"
        return f"{self.model:<18} {self.library:<12} {setting} {times}"


def measure(
    name: str, types: Iterable[str], layouts: Iterable[str], batch: int, side: int, rounds: int
) -> Iterator[Row]:
    ours, theirs, inputs = peer(name, batch, side)
    pictures = inputs[0].is_floating_point()
    for layout, precision in product(layouts if pictures else ["–"], types):
        to = {"dtype": TYPES[precision]} | ({"memory_format": FORMATS[layout]} if pictures else {})
        trio = {"ours": deepcopy(ours), "theirs": deepcopy(theirs), "again": deepcopy(theirs)}
        for model in trio.values():
            model.to(**to)
        given = tuple(x.to(**to) if pictures else x for x in inputs)
        for work, prepare in (("inference", inference), ("training", training)):
            times = in_turns({who: prepare(model, given) for who, model in trio.items()}, rounds)
            seconds = {who: min(times[who].samples) for who in times}
            ratio, noise = (seconds[who] / seconds["theirs"] for who in ("ours", "again"))
            yield Row(name, PEERS[name].library, work, precision, layout, 1e3 * seconds["ours"], ratio, noise)


def inference(model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    def run() -> None:
        model.eval()
        with torch.inference_mode():
            model(*inputs)

    return run


def training(model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
    """The mean square of the outputs as a loss, so that both do the same beside the network."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, fused=True)

    def run() -> None:
        model.train()
        model(*inputs).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def summary(rows: list[Row]) -> str:
    """A Markdown table: for each network the means of its ratios, and of all."""
    lines = ["| network | beside | inference | training step | noise |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(row.model for row in rows):
        own = [row for row in rows if row.model == name]
        cells = [
            f"{geometric_mean([r.ratio for r in own if r.work == work]):.3f}" for work in ("inference", "training")
        ]
        noise = geometric_mean([row.noise for row in own])
        lines.append(f"| {name.partition(':')[0]} | {own[0].library} | {' | '.join(cells)} | {noise:.3f} |")
    cells = [f"{geometric_mean([r.ratio for r in rows if r.work == work]):.3f}" for work in ("inference", "training")]
    lines.append(f"| **all** | | {' | '.join(cells)} | {geometric_mean([row.noise for row in rows]):.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--layouts", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--docs", action="store_true", help="write the table into docs/speed.md")
    options = parser.parse_args()
    setting = f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {options.batch}, {options.side} px"
    print(setting)
    rows = []
    for name in options.models:
        for row in measure(name, options.types, options.layouts, options.batch, options.side, options.rounds):
            rows.append(row)
            print(row, flush=True)
    table = summary(rows)
    print(table)
    if options.docs:
        write("speed", "zoo", f"{setting}, {' and '.join(options.types)}\n\n{table}")
    if options.out:
        options.out.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
