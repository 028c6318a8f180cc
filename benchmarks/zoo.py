"""Our convolutional networks against torchvision's own, with the same weights and settings, in turns.

    python -m benchmarks.zoo [--models resnet18 …] [--types fp32 bf16] [--batch 4] [--side 224] [--rounds 9]
                             [--out FILE.json]

Each row is one network in one setting: inference or a whole training step (forward, backward, fused SGD), with weights
and images in fp32 or bf16, with contiguous or channels-last memory. ``ratio`` is our best time over torchvision's (what
disturbs a run only adds to it), below 1 is faster; ``noise`` is the same ratio between torchvision and a second copy of
it, which is 1 on a perfect machine.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import geometric_mean

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models import get_model

from benchmarks.timing import in_turns
from fieldguide.models import create_model
from fieldguide.weights import load_weights

MODELS = {
    "alexnet": {},
    "vgg11": {},
    "vgg11_bn": {},
    "resnet18": {},
    "resnet50": {},
    "resnext50_32x4d": {},
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
    "mobilenet_v2": {},
    "mobilenet_v3_large": {},
    "mobilenet_v3_small": {},
    "efficientnet_b0": {},
    "efficientnet_v2_s": {},
    "regnet_x_400mf": {},
    "regnet_y_400mf": {},
}
"""One or more of each family that torchvision has; what its own constructor needs to build the same network."""
FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Row:
    model: str
    work: str
    precision: str
    layout: str
    milliseconds: float
    """Of ours."""
    ratio: float
    noise: float

    def __str__(self) -> str:
        setting = f"{self.work:<9} {self.precision}  {self.layout:<13}"
        return f"{self.model:<18} {setting} {self.milliseconds:8.1f} ms   {self.ratio:.3f}   noise {self.noise:.3f}"


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Ours and torchvision's, with the same random weights."""
    torch.manual_seed(0)
    theirs = get_model(name, weights=None, **MODELS[name])
    ours = create_model(name, **({"auxiliary": False} if "aux_logits" in MODELS[name] else {}))
    load_weights(ours, theirs.state_dict())
    return ours, theirs


def measure(name: str, types: list[str], batch: int, side: int, rounds: int) -> Iterator[Row]:
    ours, theirs = pair(name)
    side = max(side, 299) if name == "inception_v3" else side
    for (layout, memory_format), precision in product(FORMATS.items(), types):
        images = torch.randn(batch, 3, side, side).to(memory_format=memory_format)
        trio = {"ours": deepcopy(ours), "theirs": deepcopy(theirs), "again": deepcopy(theirs)}
        for model in trio.values():
            model.to(memory_format=memory_format)
        require_same(trio["ours"], trio["theirs"], images)
        images = images.to(TYPES[precision])
        for model in trio.values():
            model.to(TYPES[precision])
        for work, prepare in (("inference", inference), ("training", training)):
            times = in_turns({who: prepare(model, images) for who, model in trio.items()}, rounds)
            seconds = {who: min(times[who].samples) for who in times}
            ratio, noise = (seconds[who] / seconds["theirs"] for who in ("ours", "again"))
            yield Row(name, work, precision, layout, 1e3 * seconds["ours"], ratio, noise)


@torch.no_grad()
def require_same(ours: nn.Module, theirs: nn.Module, images: Tensor) -> None:
    expected = theirs.eval()(images)
    error = (ours.eval()(images) - expected).norm() / expected.norm()
    assert error < 1e-5, f"not the same network: {error:.1e}"


def inference(model: nn.Module, images: Tensor) -> Callable[[], object]:
    def run() -> None:
        model.eval()
        with torch.inference_mode():
            model(images)

    return run


def training(model: nn.Module, images: Tensor) -> Callable[[], object]:
    labels = torch.arange(len(images))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, fused=True)

    def run() -> None:
        model.train()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {options.batch}, {options.side} px")
    rows = []
    for name in options.models:
        for row in measure(name, options.types, options.batch, options.side, options.rounds):
            rows.append(row)
            print(row, flush=True)
    print(f"geometric mean of {len(rows)} ratios: {geometric_mean([row.ratio for row in rows]):.3f}, "
          f"of the noise: {geometric_mean([row.noise for row in rows]):.3f}, "
          f"largest ratio {max(row.ratio for row in rows):.3f}")  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
