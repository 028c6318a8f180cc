"""Whether ``fg.profile`` can be believed: its times beside ``torch.utils.benchmark``, its growth beside the clock.

``python -m benchmarks.profiles`` prints the ratio of both medians for a few networks, and the exponent of attention's
measured time beside the one that was counted. On a machine that is not quiet, the profile's warnings are printed too.
"""

from math import log

import torch
from torch import nn
from torch.utils.benchmark import Timer

import fieldguide as fg
from fieldguide.blocks.masks import Full, Window
from fieldguide.cli.examples import sample_of
from fieldguide.profile.measuring import profile

NAMES = ("resnet18", "mobilenet_v2", "vit_mini", "gpt_mini", "bert_mini")
LENGTHS = (2048, 4096, 8192)
SECONDS = 3.0


def agreement(name: str) -> str:
    model, example, _ = sample_of(name)
    found = profile(model.eval(), example, seconds=SECONDS)
    with torch.no_grad():
        timer = Timer("model(*example)", globals={"model": model, "example": example})
        other = timer.blocked_autorange(min_run_time=SECONDS).median
    doubts = f"  ({'; '.join(found.warnings)})" if found.warnings else ""
    mine = found.forward.median
    return f"{name:14} {mine * 1e3:9.3f} ms  {other * 1e3:9.3f} ms  ratio {mine / other:.3f}{doubts}"


def growth(title: str, model: nn.Module) -> str:
    counted = fg.complexity(model, torch.empty(1, LENGTHS[0], 64), sizes=LENGTHS).growth
    times = [profile(model, torch.randn(1, n, 64), seconds=1.0).forward.median for n in LENGTHS]
    measured = log(times[-1] / times[0]) / log(LENGTHS[-1] / LENGTHS[0])
    assert counted
    return f"{title:14} counted n^{counted.exponent:.2f}  formulas n^{counted.predicted:.2f}  measured n^{measured:.2f}"


def main() -> None:
    torch.set_num_threads(1)  # as torch.utils.benchmark does
    print("median of fg.profile, of torch.utils.benchmark")
    for name in NAMES:
        print(agreement(name), flush=True)
    print(f"\nattention of {LENGTHS[0]:,} to {LENGTHS[-1]:,} tokens")
    print(growth("full", fg.Attention(64, 1, mask=Full()).eval()), flush=True)
    print(growth("window 128", fg.Attention(64, 1, mask=Window(128)).eval()))


if __name__ == "__main__":
    main()
