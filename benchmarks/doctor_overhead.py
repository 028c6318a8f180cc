"""What the doctor costs: the same training with and without it, in turns.

    python -m benchmarks.doctor_overhead [--rounds 5] [--steps 300]

Overhead is the ratio of the medians of whole trainings, less one; ``once`` is what the first step costs in addition
(pre-flight tests), which is in it too. Losses are compared bit for bit.
"""

import argparse
import resource
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fieldguide.doctor.attending import Doctor
from fieldguide.models import create_model

Workload = Callable[[], tuple[nn.Module, Tensor, Tensor]]


def small_cnn() -> tuple[nn.Module, Tensor, Tensor]:
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 4 * 4, 72), nn.ReLU(), nn.Linear(72, 10),
    )  # fmt: skip
    return model, torch.randn(32, 1, 16, 16), torch.randint(10, (32,))


def resnet18() -> tuple[nn.Module, Tensor, Tensor]:
    return create_model("resnet18", num_classes=10), torch.randn(64, 3, 32, 32), torch.randint(10, (64,))


def transformer() -> tuple[nn.Module, Tensor, Tensor]:
    layer = nn.TransformerEncoderLayer(256, 8, 1024, 0.0, batch_first=True, norm_first=True)
    body = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)
    model = nn.Sequential(nn.Embedding(256, 256), body, nn.Linear(256, 256))
    return model, torch.randint(256, (8, 128)), torch.randint(256, (8, 128))


WORKLOADS: dict[str, tuple[Workload, float]] = {
    "CNN of 94 k parameters": (small_cnn, 1.0),
    "ResNet-18, 64 × 32×32": (resnet18, 0.25),
    "transformer 6×256, 8 × 128": (transformer, 0.25),
}
"""Each with the share of ``--steps`` that it trains for."""


def train(workload: Workload, steps: int) -> tuple[float, list[float]]:
    torch.manual_seed(0)
    model, x, y = workload()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = []
    started = perf_counter()
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(x)
        loss = F.cross_entropy(output.flatten(0, -2), y.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return perf_counter() - started, losses


def observed(workload: Workload, steps: int) -> tuple[float, list[float], float]:
    with Doctor() as doctor:
        seconds, losses = train(workload, steps)
    return seconds, losses, doctor.observer.excused


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--steps", type=int, default=600)
    asked = options.parse_args()
    print(f"{torch.get_num_threads()} threads")
    for name, (workload, share) in WORKLOADS.items():
        steps = max(60, round(share * asked.steps))
        train(workload, 20)
        pairs, same, once = [], True, []
        for _ in range(asked.rounds):
            plain, expected = train(workload, steps)
            watched, seen, excused = observed(workload, steps)
            pairs.append((plain, watched))
            once.append(excused)
            same = same and seen == expected
        before, after = (median(part) for part in zip(*pairs, strict=True))
        steady = (after - median(once)) / before - 1
        print(
            f"{name:<28} {1e3 * before / steps:7.2f} ms a step, overhead {after / before - 1:+.1%} over {steps} steps,",
            f"{steady:+.1%} without the {1e3 * median(once):.0f} ms once; losses",
            "identical" if same else "DIFFERENT",
            flush=True,
        )
    print(f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
