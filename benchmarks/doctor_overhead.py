"""What the doctor costs: the same training with and without it, in turns.

    python -m benchmarks.doctor_overhead [--rounds 9] [--steps 600] [--write]

Overhead is the ratio of the median times of whole trainings, less one; beside it stands what is left without the tests
before the first step, which are made once. Memory is the highest of a process that trains with the doctor over that of
one without. Losses are compared bit for bit. ``--write`` puts the table into docs/doctor.md.
"""

import argparse
import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.pages import write
from benchmarks.timing import in_turns
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


def train(workload: Workload, steps: int) -> list[float]:
    torch.manual_seed(0)
    model, x, y = workload()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        output = model(x)
        loss = F.cross_entropy(output.flatten(0, -2), y.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def peak(name: str, steps: int, *, watched: bool) -> float:
    """MiB that this process has held at most, when it has trained."""
    torch.set_num_threads(1)
    workload, _ = WORKLOADS[name]
    if watched:
        with Doctor():
            train(workload, steps)
    else:
        train(workload, steps)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(name: str, steps: int = 12) -> float:
    """MiB that the doctor adds to the highest of a training, each in a process of its own."""
    peaks = []
    for watched in (False, True):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            peaks.append(fresh.submit(peak, name, steps, watched=watched).result())
    return peaks[1] - peaks[0]


def measured(name: str, steps: int, rounds: int) -> str:
    """A row of the table."""
    workload, share = WORKLOADS[name]
    steps = max(60, round(share * steps))
    losses: list[list[float]] = []
    once: list[float] = []

    def watched() -> None:
        with Doctor() as doctor:
            losses.append(train(workload, steps))
        once.append(doctor.observer.excused)

    times = in_turns({"plain": lambda: losses.append(train(workload, steps)), "watched": watched}, rounds)
    plain, seen, tests = times["plain"].median, times["watched"].median, median(once)
    alone = min(len(found.clean) for found in times.values())
    return (
        f"| {name} | {1e3 * plain / steps:.2f} ms | {seen / plain - 1:+.1%} | {(seen - tests) / plain - 1:+.1%} | "
        f"{1e3 * tests:.0f} ms | {memory(name):+.0f} MiB | {'yes' if losses == losses[:1] * len(losses) else 'NO'} | "
        f"{alone} of {rounds} |"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--steps", type=int, default=600)
    options.add_argument("--write", action="store_true")
    asked = options.parse_args()
    lines = [
        "| training | a step | whole | without its tests | these, once | memory | losses equal | undisturbed |",
        "|---|--:|--:|--:|--:|--:|---|---|",
    ]
    print(*lines, sep="\n", flush=True)
    for name in WORKLOADS:
        lines.append(measured(name, asked.steps, asked.rounds))
        print(lines[-1], flush=True)
    if asked.write:
        write("doctor", "overhead", "\n".join(lines))


if __name__ == "__main__":
    main()
