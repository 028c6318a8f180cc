"""What a training loop costs over a bare hand-written one that does the same mathematics: ours, and those of others.

    python -m benchmarks.overhead [--rounds 8] [--epochs 10] [--out FILE.json] [--docs]

All train the same network on scikit-learn's digits, in turns in one process: shuffled batches of 64, cross-entropy,
clipping at 1, warm-up + cosine, fused AdamW, one thread, no progress bar, no checkpoint. Ours also writes every step to
metrics.jsonl and every tenth to trace.jsonl; the others write nothing. Ours and the bare loop must end with
bit-identical weights, or the comparison is void. Of each turn the first epochs are left out. Libraries that are not
installed are named (the extra ``trainers`` has them).
"""

import argparse
import importlib.util
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import cos, pi
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR

from benchmarks.pages import write
from fieldguide.objectives import Classification
from fieldguide.optim import parameter_groups
from fieldguide.train.callbacks import MetricsLog, Trace
from fieldguide.train.feeds import IndexedFeed
from fieldguide.train.loop import Loop
from fieldguide.train.recipe import OptimizerRecipe, Recipe

BATCH, LR, DECAY, SKIP = 64, 1e-3, 0.01, 2


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn() -> nn.Module:
    """About 94,000 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 280), nn.ReLU(), nn.Linear(280, 10)),
    )


NETWORKS = {"MLP": mlp, "CNN": cnn}


@dataclass(frozen=True)
class Task:
    """What every loop is given."""

    model: nn.Module
    feed: IndexedFeed
    epochs: int
    folder: Path

    @property
    def steps(self) -> int:
        return self.epochs * len(self.feed)

    def share(self, step: int) -> float:
        """Of the base rate, at a step."""
        warmup = round(0.05 * self.steps)
        return min(1, (step + 1) / warmup) * (1 + cos(pi * max(0, (step - warmup) / (self.steps - warmup)))) / 2

    def optimizer(self) -> torch.optim.Optimizer:
        groups = [{**group, "params": [p for _, p in group["params"]]} for group in parameter_groups(self.model, DECAY)]
        return torch.optim.AdamW(groups, lr=LR, fused=True)

    def batches(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        inputs, labels = self.feed.source
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        for chosen in order.split(BATCH):
            yield inputs[chosen], labels[chosen]


class Batches:
    """The same batches as an iterable that others take for a loader; each pass is the next epoch."""

    def __init__(self, task: Task):
        self.task, self.epoch = task, 0

    def __len__(self) -> int:
        return len(self.task.feed)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.epoch += 1
        return self.task.batches(self.epoch - 1)


Contender = Callable[[Task], list[float]]
"""Trains to the end; the moment at which each epoch ended."""


def bare(task: Task) -> list[float]:
    """The loop that one writes by hand."""
    optimizer, parameters, step, moments = task.optimizer(), list(task.model.parameters()), 0, []
    task.model.train()
    for epoch in range(task.epochs):
        total = 0.0
        for inputs, labels in task.batches(epoch):
            for group in optimizer.param_groups:
                group["lr"] = LR * task.share(step)
            loss = cross_entropy(task.model(inputs), labels)
            loss.backward()
            clip_grad_norm_(parameters, 1.0, foreach=True)
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item()
            step += 1
        moments.append(perf_counter())
    return moments


def ours(task: Task) -> list[float]:
    optimizer = OptimizerRecipe(lr=LR, weight_decay=DECAY)
    recipe = Recipe(epochs=task.epochs, batch_size=BATCH, threads=1, optimizer=optimizer)
    callbacks = [MetricsLog(task.folder / "metrics.jsonl"), Trace(task.folder / "trace.jsonl")]
    loop = Loop(task.model, task.feed, None, Classification(), recipe, callbacks)
    task.model.train()
    loop.callbacks.tell("on_start", loop)
    moments = []
    for _ in range(task.epochs):
        loop.train_epoch()
        loop.finish_epoch()
        moments.append(perf_counter())
    return moments


def lightning_trainer(task: Task) -> list[float]:
    import lightning

    moments: list[float] = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = task.model

        def training_step(self, batch, index):
            return cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            optimizer = task.optimizer()
            schedule = LambdaLR(optimizer, task.share)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

        def on_train_epoch_end(self):
            moments.append(perf_counter())

    trainer = lightning.Trainer(
        max_epochs=task.epochs,
        accelerator="cpu",
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=task.folder,
    )
    trainer.fit(Module(), Batches(task))
    return moments


def lightning_fabric(task: Task) -> list[float]:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu")
    model, optimizer = fabric.setup(task.model, task.optimizer())
    schedule = LambdaLR(optimizer, task.share)
    return _by_hand(task, model, optimizer, schedule, fabric.backward, lambda: fabric.clip_gradients(
        model, optimizer, max_norm=1.0, error_if_nonfinite=False))  # fmt: skip


def accelerate_loop(task: Task) -> list[float]:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    optimizer = task.optimizer()
    model, optimizer, schedule = accelerator.prepare(task.model, optimizer, LambdaLR(optimizer, task.share))
    return _by_hand(task, model, optimizer, schedule, accelerator.backward,
                    lambda: accelerator.clip_grad_norm_(model.parameters(), 1.0))  # fmt: skip


def _by_hand(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: LambdaLR,
    backward: Callable[[torch.Tensor], object],
    clip: Callable[[], object],
) -> list[float]:
    """The bare loop with the parts that a library has wrapped."""
    moments = []
    model.train()
    for epoch in range(task.epochs):
        total = 0.0
        for inputs, labels in task.batches(epoch):
            loss = cross_entropy(model(inputs), labels)
            backward(loss)
            clip()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += loss.item()
        moments.append(perf_counter())
    return moments


def transformers_trainer(task: Task) -> list[float]:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    moments: list[float] = []

    class Clock(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            moments.append(perf_counter())

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = task.model

        def forward(self, inputs, labels):
            return {"loss": cross_entropy(self.model(inputs), labels)}

    inputs, labels = task.feed.source
    rows = [{"inputs": x, "labels": y} for x, y in zip(inputs, labels, strict=True)]
    settings = TrainingArguments(
        output_dir=str(task.folder),
        per_device_train_batch_size=BATCH,
        num_train_epochs=task.epochs,
        max_grad_norm=1.0,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    optimizer = task.optimizer()
    trainer = Trainer(
        Wrapped(),
        settings,
        train_dataset=rows,
        optimizers=(optimizer, LambdaLR(optimizer, task.share)),
        callbacks=[Clock()],
    )
    trainer.train()
    return moments


CONTENDERS: dict[str, tuple[str, Contender]] = {
    "bare loop": ("torch", bare),
    "fieldguide": ("torch", ours),
    "Lightning Fabric": ("lightning", lightning_fabric),
    "accelerate": ("accelerate", accelerate_loop),
    "Lightning Trainer": ("lightning", lightning_trainer),
    "transformers Trainer": ("accelerate", transformers_trainer),
}


@dataclass(frozen=True)
class Row:
    network: str
    loop: str
    microseconds: float
    """A step, median over all epochs."""
    spread: float
    """The quartiles' distance."""
    added: float
    """Median difference from the bare loop in the same turn."""
    share: float
    """Of the bare loop's step."""

    def __str__(self) -> str:
        return (
            f"{self.network}  {self.loop:<21} {self.microseconds:7.0f} ± {self.spread:<5.0f} µs a step   "
            f"added {self.added:+7.0f} µs = {self.share:+.1%}"
        )


def compare(network: str, epochs: int, rounds: int) -> list[Row]:
    images, labels = load_digits(return_X_y=True)
    inputs = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    feed = IndexedFeed((inputs, torch.tensor(labels)), BATCH, seed=0, shuffle=True)
    there = {name: run for name, (library, run) in CONTENDERS.items() if importlib.util.find_spec(library)}
    start = NETWORKS[network]()
    taken: dict[str, list[float]] = {name: [] for name in there}
    added: dict[str, list[float]] = {name: [] for name in there}
    for _ in range(rounds):
        ended = {}
        for name, run in there.items():
            with tempfile.TemporaryDirectory() as folder:
                task = Task(deepcopy(start), feed, epochs, Path(folder))
                moments = run(task)
            ended[name] = task.model.state_dict()
            seconds = [after - before for before, after in pairwise(moments)][SKIP - 1 :]
            taken[name] += [one / len(feed) * 1e6 for one in seconds]
            own, hand = (median(taken[who][-len(seconds) :]) for who in (name, "bare loop"))
            added[name].append(own - hand)
        same = zip(ended["bare loop"].values(), ended["fieldguide"].values(), strict=True)
        assert all(torch.equal(one, other) for one, other in same), "not the same mathematics"
    rows = []
    for name in there:
        low, middle, high = quantiles(taken[name], n=4)
        more = median(added[name])
        rows.append(Row(network, name, middle, high - low, more, more / median(taken["bare loop"])))
    return rows


def table(rows: list[Row]) -> str:
    lines = ["| network | loop | µs a step | more than by hand |", "|---|---|---|---|"]
    lines += [f"| {r.network} | {r.loop} | {r.microseconds:,.0f} | {r.added:+,.0f} µs, {r.share:+.1%} |" for r in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--docs", action="store_true", help="write the table into docs/speed.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    absent = {library for library, _ in CONTENDERS.values() if not importlib.util.find_spec(library)}
    if absent:
        print(f"not installed and left out: {', '.join(sorted(absent))}")
    rows = [row for name in NETWORKS for row in compare(name, options.epochs, options.rounds)]
    print(*rows, sep="\n")
    if options.docs:
        write("speed", "overhead", table(rows))
    if options.out:
        options.out.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
