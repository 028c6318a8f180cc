"""What looking at and limiting gradients costs beside the rest of a training step.

    python -m benchmarks.clipping

A ResNet-18 on 64 images of 32×32 with fused AdamW, one thread. Each row is timed on its own, on the gradients of a real
backward pass, and given as a share of the step without it: forward, backward and optimizer.
"""

from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from fieldguide.models import create_model
from fieldguide.optim import build_clip, build_optimizer, centralize_gradients, global_norm


def seconds(action: Callable[[], object], repeats: int) -> float:
    """Median of so many runs, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        started = perf_counter()
        action()
        times.append(perf_counter() - started)
    return median(times[1:])


def main() -> None:
    model = create_model("resnet18", num_classes=10).train()
    optimizer = build_optimizer(model)
    parameters = list(model.parameters())
    images, labels = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(images), labels).backward()
        optimizer.step()

    whole = seconds(step, 15)
    print(f"ResNet-18, 32×32, batch 64, 1 thread: {1e3 * whole:.1f} ms a step")
    kept = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = global_norm(gradients).item()
    rows: dict[str, Callable[[], object]] = {
        "norm, nothing to clip": lambda: build_clip("norm", 2 * norm, model)(parameters),
        "norm, clipped": lambda: build_clip("norm", norm / 1e6, model)(parameters),
        "value": lambda: build_clip("value", 1e-3, model)(parameters),
        "adaptive": lambda: build_clip("adaptive", 0.01, model)(parameters),
        "centralized": lambda: centralize_gradients(parameters),
        "torch's clip_grad_norm_": lambda: clip_grad_norm_(parameters, 1.0, foreach=True),
    }
    for name, action in rows.items():
        for gradient, before in zip(gradients, kept, strict=True):
            gradient.copy_(before)
        cost = seconds(action, 60)
        print(f"{name:26} {1e3 * cost:6.2f} ms  {cost / whole:6.2%}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    main()
