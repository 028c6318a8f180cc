"""The optimizers side by side: three small real tasks, the same number of trials for each, a table and curves.

    python -m benchmarks.optimizers --out FOLDER [--trials 4] [--seeds 3] [--workers 2] [--quick]

Every optimizer has as many learning rates to try as any other, a factor of √10 apart around the one its paper or its
page suggests; the lowest validation loss decides, and that rate alone is trained again with several seeds and tested.
Epochs, batches, schedule (cosine after a warm-up; constant for schedule_free), clipping and the weights at the start
are the same for all. The tasks: scikit-learn's digits with resnet_mini; Python's own standard library, byte by byte,
with gpt_mini; scikit-learn's breast cancer table with an MLP. All are split by a fixed seed, files of text as wholes.
FOLDER receives optimizers.md, optimizers.png (training loss of the first seed) and optimizers.json.
"""

import argparse
import json
import sysconfig
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any

import matplotlib
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor, nn

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.objectives import Classification, NextToken, Objective
from fieldguide.train.callbacks import History
from fieldguide.train.fitting import fit
from fieldguide.train.recipe import OptimizerRecipe, Recipe, ScheduleRecipe

matplotlib.use("Agg")
from matplotlib import pyplot as plt

Part = tuple[Tensor, ...]


@dataclass(frozen=True)
class Task:
    model: Callable[[], nn.Module]
    parts: Callable[[], tuple[Part, Part, Part]]
    objective: Objective
    metric: str
    epochs: int
    batch_size: int


@cache
def digits() -> tuple[Part, Part, Part]:
    images, labels = load_digits(return_X_y=True)
    return _split(torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16, torch.tensor(labels))


@cache
def cancer() -> tuple[Part, Part, Part]:
    rows, labels = load_breast_cancer(return_X_y=True)
    train, val, test = _split(torch.tensor(rows, dtype=torch.float32), torch.tensor(labels))
    mean, std = train[0].mean(0), train[0].std(0)
    return tuple(((x - mean) / std, y) for x, y in (train, val, test))  # pyright: ignore[reportReturnType]


@cache
def source() -> tuple[Part, Part, Part]:
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-z]*.py"))
    order = np.random.default_rng(0).permutation(len(files))
    shares, windows = {"train": order[20:], "val": order[:10], "test": order[10:20]}, []
    for name, limit in (("train", 1536), ("val", 256), ("test", 512)):
        text = np.frombuffer(b"".join(files[i].read_bytes() for i in shares[name]), np.uint8)
        pieces = torch.tensor(text[: len(text) // 65 * 65]).view(-1, 65).long()
        chosen = np.random.default_rng(1).permutation(len(pieces))[:limit]
        windows.append((pieces[torch.tensor(chosen)],))
    return tuple(windows)  # pyright: ignore[reportReturnType]


def _split(inputs: Tensor, labels: Tensor) -> tuple[Part, Part, Part]:
    order = torch.tensor(np.random.default_rng(0).permutation(len(labels)))
    cuts = order.tensor_split([int(0.6 * len(order)), int(0.8 * len(order))])
    return tuple((inputs[part], labels[part]) for part in cuts)  # pyright: ignore[reportReturnType]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


TASKS = {
    "digits, resnet_mini": Task(
        partial(create_model, "resnet_mini", num_classes=10, in_channels=1),
        digits,
        Classification(),
        "accuracy",
        4,
        64,
    ),
    "source text, gpt_mini": Task(partial(create_model, "gpt_mini"), source, NextToken(), "bits_per_byte", 2, 32),
    "breast cancer, MLP": Task(mlp, cancer, Classification(), "accuracy", 10, 32),
}
PLAIN = {"sgd", "adam", "rmsprop"}
"""Their decay is in the gradient, so it has to be smaller."""


@dataclass(frozen=True)
class Candidate:
    optimizer: str
    lr: float
    """The middle of its trials."""
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = 0.9
    extras: tuple[tuple[str, Any], ...] = ()

    def recipe(self, task: Task, lr: float, seed: int) -> Recipe:
        free = self.optimizer == "schedule_free"
        optimizer = OptimizerRecipe(
            name=self.optimizer,  # pyright: ignore[reportArgumentType]
            lr=lr,
            betas=self.betas,
            momentum=self.momentum,
            weight_decay=1e-4 if self.optimizer in PLAIN else 0.05,
        )
        schedule = ScheduleRecipe(name="constant" if free else "cosine", warmup=0.1)
        size = {"epochs": task.epochs, "batch_size": task.batch_size, "threads": 1, "seed": seed}
        return Recipe(**size, optimizer=optimizer, schedule=schedule, **dict(self.extras))


CANDIDATES = {
    "adamw": Candidate("adamw", 3e-3),
    "adam": Candidate("adam", 3e-3),
    "sgd": Candidate("sgd", 1e-1),
    "rmsprop": Candidate("rmsprop", 1e-3),
    "nadam": Candidate("nadam", 3e-3),
    "radam": Candidate("radam", 1e-2),
    "adafactor": Candidate("adafactor", 3e-2),
    "muon": Candidate("muon", 3e-3, momentum=0.95),
    "lion": Candidate("lion", 1e-3, betas=(0.9, 0.99)),
    "lamb": Candidate("lamb", 1e-2),
    "soap": Candidate("soap", 1e-2, betas=(0.95, 0.95)),
    "schedule_free": Candidate("schedule_free", 1e-2),
    "adamw + sharpness": Candidate("adamw", 3e-3, extras=(("sharpness", 0.05),)),
    "adamw + ema": Candidate("adamw", 3e-3, extras=(("ema", 0.95),)),
    "adamw + swa": Candidate("adamw", 3e-3, extras=(("swa", 0.25),)),
    "adamw + lookahead": Candidate("adamw", 3e-3, extras=(("lookahead", 5),)),
}


@dataclass(frozen=True)
class Outcome:
    val_loss: float
    test: float
    losses: list[float]
    """Training loss of every step."""
    seconds: float


def train(task_name: str, name: str, lr: float, seed: int) -> Outcome:
    """One training; what diverges has an infinite validation loss."""
    torch.set_num_threads(1)
    task, candidate, history = TASKS[task_name], CANDIDATES[name], History()
    torch.manual_seed(seed)
    model = task.model()
    training, val, test = task.parts()
    started = perf_counter()
    try:
        run = fit(model, (training, val), task.objective, candidate.recipe(task, lr, seed), callbacks=[history])
    except FieldguideError:
        return Outcome(float("inf"), float("nan"), [], perf_counter() - started)
    seconds = perf_counter() - started
    figures = _figures(model, test, task)
    losses = [record["loss"] for record in history.records if record["kind"] == "step"]
    last = [record["val_loss"] for record in run.history if "val_loss" in record][-1]
    return Outcome(last, figures[task.metric], losses, seconds)


def _figures(model: nn.Module, part: Part, task: Task) -> dict[str, float]:
    metrics = task.objective.metrics()
    model.eval()
    with torch.no_grad():
        for rows in torch.arange(len(part[0])).split(256):
            metrics.update(model, tuple(column[rows] for column in part))
    found = metrics.compute()
    return found | {"bits_per_byte": found["loss"] / np.log(2)}


@dataclass(frozen=True)
class Row:
    task: str
    name: str
    lr: float
    tests: list[float]
    seconds: float
    losses: list[float]


def compare(names: Sequence[str], tasks: Sequence[str], trials: int, seeds: int, workers: int) -> list[Row]:
    rates = {name: [CANDIDATES[name].lr * 10 ** ((k - trials // 2) / 2) for k in range(trials)] for name in names}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        tried = {
            (task, name): [pool.submit(train, task, name, lr, 1000) for lr in rates[name]]
            for task in tasks
            for name in names
        }
        chosen = {
            key: min(zip((f.result().val_loss for f in runs), rates[key[1]], strict=True))[1]
            for key, runs in tried.items()
        }
        final = {key: [pool.submit(train, *key, lr, seed) for seed in range(seeds)] for key, lr in chosen.items()}
        rows = []
        for (task, name), runs in final.items():
            outcomes = [run.result() for run in runs]
            seconds = mean(outcome.seconds for outcome in outcomes)
            tests = [outcome.test for outcome in outcomes]
            rows.append(Row(task, name, chosen[task, name], tests, seconds, outcomes[0].losses))
            print(f"{task:24} {name:20} lr {rows[-1].lr:.2g}  {_shown(rows[-1])}", flush=True)
    return rows


def _shown(row: Row) -> str:
    spread = stdev(row.tests) if len(row.tests) > 1 else 0.0
    if TASKS[row.task].metric == "accuracy":
        return f"{mean(row.tests):.1%} ± {100 * spread:.1f}"
    return f"{mean(row.tests):.3f} ± {spread:.3f}"


def table(rows: Sequence[Row], trials: int, seeds: int) -> str:
    """Markdown: for each task the test figure (mean ± standard deviation), the chosen rate and the time."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    cells = {(row.task, row.name): row for row in rows}
    header = " | ".join(f"{task}: test {TASKS[task].metric.replace('_', ' ')}, lr, seconds" for task in tasks)
    lines = [f"| optimizer | {header} |", "|---|" + "---|" * len(tasks)]
    for name in dict.fromkeys(row.name for row in rows):
        shown = [cells[task, name] for task in tasks]
        lines.append(
            f"| {name} | " + " | ".join(f"{_shown(row)}, {row.lr:.2g}, {row.seconds:.1f}" for row in shown) + " |"
        )
    note = f"{trials} learning rates tried for each, one seed; then {seeds} other seeds, mean ± standard deviation."
    return "\n".join([*lines, "", note, ""])


def picture(rows: Sequence[Row], path: Path) -> None:
    tasks = list(dict.fromkeys(row.task for row in rows))
    figure, axes = plt.subplots(1, len(tasks), figsize=(6 * len(tasks), 4.5), squeeze=False, layout="constrained")
    colors = plt.get_cmap("tab20").colors  # pyright: ignore[reportAttributeAccessIssue]
    styles = ["-", "--"]
    names = list(dict.fromkeys(row.name for row in rows))
    for axis, task in zip(axes[0], tasks, strict=True):
        for row in (row for row in rows if row.task == task):
            place = names.index(row.name)
            axis.plot(
                _smooth(row.losses), label=row.name, color=colors[place], linestyle=styles["+" in row.name], lw=1.3
            )
        axis.set(title=task, xlabel="optimizer step", ylabel="training loss, smoothed", yscale="log")
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3 * len(tasks), frameon=False
    )
    figure.savefig(path, dpi=120)


def _smooth(losses: Sequence[float], keep: float = 0.9) -> list[float]:
    smoothed, value = [], 0.0
    for step, loss in enumerate(losses, 1):
        value = keep * value + (1 - keep) * loss
        smoothed.append(value / (1 - keep**step))
    return smoothed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--optimizers", nargs="+", default=list(CANDIDATES), choices=list(CANDIDATES))
    parser.add_argument("--quick", action="store_true", help="the table alone, two trials and two seeds")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    trials, seeds = (2, 2) if options.quick else (options.trials, options.seeds)
    tasks = list(TASKS)[-1:] if options.quick else list(TASKS)
    rows = compare(options.optimizers, tasks, trials, seeds, options.workers)
    (options.out / "optimizers.md").write_text(table(rows, trials, seeds))
    (options.out / "optimizers.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    picture(rows, options.out / "optimizers.png")
    print(table(rows, trials, seeds))
