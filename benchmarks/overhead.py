"""What the training loop costs over a bare hand-written one that does the same mathematics.

    python -m benchmarks.overhead

Both loops train the same network on scikit-learn's digits, epoch and epoch about in one process: shuffled batches of
64, cross-entropy, clipping at 1, warm-up + cosine, fused AdamW, one thread. Ours also writes every step to
metrics.jsonl and every tenth to trace.jsonl. The two must end with bit-identical weights, or the comparison is void.
"""

import tempfile
from collections.abc import Iterator
from copy import deepcopy
from math import cos, pi
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from fieldguide.objectives import Classification
from fieldguide.optim import parameter_groups
from fieldguide.train.callbacks import MetricsLog, Trace
from fieldguide.train.feeds import IndexedFeed
from fieldguide.train.loop import Loop
from fieldguide.train.recipe import OptimizerRecipe, Recipe

BATCH, LR, DECAY = 64, 1e-3, 0.01


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn() -> nn.Module:
    """About 94,000 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 280), nn.ReLU(), nn.Linear(280, 10)),
    )


def bare(model: nn.Module, feed: IndexedFeed, epochs: int) -> Iterator[float]:
    """The loop one writes by hand, one epoch at a time; yields the seconds of each."""
    steps, warmup, step = epochs * len(feed), round(0.05 * epochs * len(feed)), 0
    inputs, labels = feed.source
    groups = [{**group, "params": [p for _, p in group["params"]]} for group in parameter_groups(model, DECAY)]
    optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
    parameters = list(model.parameters())
    model.train()
    for epoch in range(epochs):
        started, total = perf_counter(), 0.0
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        for chosen in order.split(BATCH):
            factor = min(1, (step + 1) / warmup) * (1 + cos(pi * max(0, (step - warmup) / (steps - warmup)))) / 2
            for group in optimizer.param_groups:
                group["lr"] = LR * factor
            loss = cross_entropy(model(inputs[chosen]), labels[chosen])
            loss.backward()
            clip_grad_norm_(parameters, 1.0, foreach=True)
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item()
            step += 1
        yield perf_counter() - started


def ours(model: nn.Module, feed: IndexedFeed, epochs: int, folder: Path) -> Iterator[float]:
    optimizer = OptimizerRecipe(lr=LR, weight_decay=DECAY)
    recipe = Recipe(epochs=epochs, batch_size=BATCH, threads=1, optimizer=optimizer)
    callbacks = [MetricsLog(folder / "metrics.jsonl"), Trace(folder / "trace.jsonl")]
    loop = Loop(model, feed, None, Classification(), recipe, callbacks)
    model.train()
    loop.callbacks.tell("on_start", loop)
    for _ in range(epochs):
        started = perf_counter()
        loop.train_epoch()
        loop.finish_epoch()
        yield perf_counter() - started


def compare(name: str, model: nn.Module, epochs: int, skip: int = 3) -> None:
    """One line: the median microseconds a step of either loop with quartiles, and of their paired differences."""
    images, labels = load_digits(return_X_y=True)
    inputs = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    feed = IndexedFeed((inputs, torch.tensor(labels)), BATCH, seed=0, shuffle=True)
    twin = deepcopy(model)
    with tempfile.TemporaryDirectory() as folder:
        pairs = list(zip(bare(model, feed, epochs), ours(twin, feed, epochs, Path(folder)), strict=True))[skip:]
    same = all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values(), strict=True))
    columns = [[seconds / len(feed) * 1e6 for seconds in column] for column in zip(*pairs, strict=True)]
    added = [mine - hand for hand, mine in zip(*columns, strict=True)]
    share = median(added) / median(columns[0])
    cells = [f"{title} {_spread(column)}" for title, column in zip(("bare", "fieldguide"), columns, strict=True)]
    weights = "identical" if same else "DIFFERENT"
    print(f"{name}: {'   '.join(cells)}   added {_spread(added)} µs a step = {share:+.1%}   weights {weights}")


def _spread(values: list[float]) -> str:
    low, middle, high = quantiles(values, n=4)
    return f"{middle:.0f} [{low:.0f}–{high:.0f}]"


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("microseconds a step, median [quartiles] over epochs of 29 steps, 1 thread")
    compare("MLP 64-64-128-10", mlp(), epochs=100)
    compare(f"CNN {sum(p.numel() for p in cnn().parameters()):,} parameters", cnn(), epochs=60)
