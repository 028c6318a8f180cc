"""Interrupted trainings against unbroken ones: a pairwise cover of everything that may change what a resume restores.

    python -m benchmarks.resume_matrix [--cells 0]

Every two values that two axes can take together meet in at least one cell. A cell trains a tiny network twice, once
interrupted, and compares the hash of the final weights and of every state, and the logs but for their clocks. Then the
mini of each family, with the family's own recipe, is interrupted at three points.
"""

import argparse
import os
import random
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from hashlib import sha256
from itertools import combinations, product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.lessons import FAMILIES, Lesson, lesson
from benchmarks.pages import write
from fieldguide import trace
from fieldguide.data import ImageData, open_images
from fieldguide.errors import FieldguideError
from fieldguide.objectives import Classification
from fieldguide.train import Callback, Recipe, RunFolder, Stopped, fit
from fieldguide.train.callbacks import TrainingWarning
from fieldguide.train.recipe import from_mapping

AXES: dict[str, tuple[Any, ...]] = {
    "optimizer": ("sgd", "adamw", "muon", "adafactor", "schedule_free"),
    "schedule": ("cosine", "one_cycle", "plateau", "warmup_stable_decay", "constant"),
    "precision": ("fp32", "bf16", "fp16"),
    "extra": ("none", "ema", "swa", "lookahead", "sharpness", "patience"),
    "accumulation": (1, 3),
    "data": ("tensors", "random map-style", "mixup", "cutmix"),
    "workers": ((0, 0), (2, 2), (0, 2), (2, 0)),
    "dropout": (0.0, 0.3),
    "point": ("step 1", "mid-epoch", "last batch", "boundary", "evaluation", "window", "twice", "thrice", "killed"),
}
EXTRAS = {
    "none": {}, "ema": {"ema": 0.9}, "swa": {"swa": 0.5}, "lookahead": {"lookahead": 2},
    "sharpness": {"sharpness": 0.05},
    "patience": {"stopping": {"patience": 4}},
}  # fmt: skip
POINTS = ("step 1", "mid-epoch", "boundary")
"""Where each family's training is interrupted."""
CLOCK = {"seconds", "samples_per_second", "data_wait", "resident_bytes"}


class Jittered(torch.utils.data.Dataset):
    """Digits with noise from torch's global generator."""

    def __init__(self, images: Tensor, labels: Tensor):
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.images[i] + 0.1 * torch.randn(1, 8, 8), self.labels[i]


class Interruptions(Callback):
    """Asks for a stop, as SIGTERM does, at the cell's point; ``killed`` loses what came after the last checkpoint."""

    def __init__(self, point: str):
        self.point, self.done, self.forwards = point, 0, 0
        self.most = {"twice": 2, "thrice": 3}.get(point, 1)

    def on_start(self, loop: Any) -> None:
        super().on_start(loop)
        loop.model.register_forward_hook(self.after_forward)
        self.forwards = 0
        an_epoch = -(-len(loop.train) // loop.recipe.accumulation)
        self.step = {"step 1": 1, "mid-epoch": an_epoch + an_epoch // 2 + 1, "last batch": 2 * an_epoch - 1,
                     "boundary": an_epoch, "killed": an_epoch + 1}.get(self.point)  # fmt: skip

    def after_forward(self, model: nn.Module, *_: Any) -> None:
        self.forwards += model.training
        if (self.point == "evaluation" and not model.training) or (self.point == "window" and self.forwards == 2):
            self.interrupt()

    def on_step(self, record: trace.Record) -> None:
        step = self.loop.progress.step
        if self.point in ("twice", "thrice") or (step == self.step and self.point not in ("evaluation", "window")):
            self.interrupt()

    def interrupt(self) -> None:
        if self.done < self.most:
            self.done += 1
            if self.point == "killed":
                raise ConnectionAbortedError
            os.kill(os.getpid(), signal.SIGTERM)


class Evidence(Callback):
    """A hash of all that training changed, taken at its end."""

    def on_end(self) -> None:
        state = self.loop.state_dict()
        progress = {key: value for key, value in state["progress"].items() if key not in {*CLOCK, "waited", "history"}}
        callbacks = {key: value for key, value in state["callbacks"].items() if key not in ("MetricsLog", "Trace")}
        streams = {key: value for key, value in state["random"].items() if key != "python"}  # beartype draws from it
        self.hash = digest(state | {"progress": progress, "callbacks": callbacks, "recipe": None, "random": streams})


def digest(tree: Any) -> str:
    """sha256 over a tree of tensors and plain values."""
    if isinstance(tree, Tensor):
        tree = (
            str(tree.dtype),
            tuple(tree.shape),
            tree.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
    elif isinstance(tree, dict):
        tree = sorted((str(key), digest(value)) for key, value in tree.items())
    elif isinstance(tree, list | tuple):
        tree = [digest(value) for value in tree]
    return sha256(repr(tree).encode()).hexdigest()


@cache
def digits() -> ImageData:
    return open_images("digits")


def recipe_of(cell: dict[str, Any], workers: int) -> Recipe:
    """Raises FieldguideError for what does not go together."""
    steady = {"cycle_momentum": [0.9, 0.9]} if cell["optimizer"] == "adafactor" else {}  # it has no momentum
    mixed = {cell["data"]: 0.5} if cell["data"] in ("mixup", "cutmix") else {}
    return from_mapping(
        {
            "epochs": 2, "threads": 1, "batch_size": 256 if mixed else 16, "accumulation": cell["accumulation"],
            "precision": cell["precision"], "workers": workers, "checkpoint_every": 2, "augment": mixed,
            "optimizer": {"name": cell["optimizer"]},
            "schedule": {"name": cell["schedule"], "plateau_epochs": 1} | steady,
            **EXTRAS[cell["extra"]],
        }
    )  # fmt: skip


def possible(cell: dict[str, Any]) -> bool:
    """Whether the recipe takes the values together; axes a cell does not name have their first value."""
    whole = {name: values[0] for name, values in AXES.items()} | cell
    if "schedule" not in cell and whole["optimizer"] == "schedule_free":
        whole["schedule"] = "constant"
    try:
        recipe_of(whole, 0)
    except FieldguideError:
        return False
    # Tensors and our own feeds have no workers; a window needs a second micro-batch.
    workers = whole["workers"] == (0, 0) or whole["data"] == "random map-style" or "data" not in cell
    return workers and (whole["point"] != "window" or whole["accumulation"] > 1 or "accumulation" not in cell)


def cover(seed: int = 0, tries: int = 60) -> Iterator[dict[str, Any]]:
    """Cells until each possible pair of values has occurred: of some random ones always that with most new pairs."""
    chance, names = random.Random(seed), list(AXES)
    missing = {
        ((a, x), (b, y))
        for a, b in combinations(names, 2)
        for x, y in product(AXES[a], AXES[b])
        if possible({a: x, b: y})
    }
    while missing:
        first = min(missing, key=repr)
        cells = [{name: chance.choice(values) for name, values in AXES.items()} | dict(first) for _ in range(tries)]
        best = max(cells, key=lambda cell: possible(cell) * (1 + len(missing & pairs(cell))))
        if possible(best):
            missing -= pairs(best)
            yield best


def pairs(cell: dict[str, Any]) -> set[Any]:
    return set(combinations(cell.items(), 2))


def small(cell: dict[str, Any], resumed: bool) -> Lesson:
    """A cell's training; the number of workers changes at the first resume."""
    recipe = recipe_of(cell, cell["workers"][resumed])
    torch.manual_seed(5)
    layers = (
        nn.Linear(64, 12),
        nn.Linear(12, 12),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Dropout(cell["dropout"]),
        nn.Linear(12, 10),
    )
    parts: Any = digits().feeds(recipe)[:2]
    if cell["data"] in ("tensors", "random map-style"):
        inputs, labels = next(parts[1].batches(0))
        inputs, labels = inputs.repeat(7, 1, 1, 1)[:100], labels.repeat(7)[:100]
        parts = ((inputs, labels),) * 2 if cell["data"] == "tensors" else (Jittered(inputs, labels),) * 2
    return Lesson(nn.Sequential(nn.Flatten(), *layers), parts, Classification(), recipe)


def train(path: Path, training: Callable[[bool], Lesson], point: str) -> tuple[Any, int]:
    """What a training left, and how often it was interrupted; each life builds it anew."""
    folder, plug, evidence, resume = RunFolder.create_at(path), Interruptions(point), Evidence(), False
    while True:
        own = training(resume)
        callbacks = [plug, evidence]
        try:
            fit(own.model, own.data, own.objective, own.recipe, run=folder, resume=resume, callbacks=callbacks)
            break
        except (Stopped, ConnectionAbortedError):
            resume = True
            torch.randn(3)  # whatever the generators do between two processes
    logs = [
        {key: value for key, value in record.items() if key not in CLOCK}
        for name in ("metrics.jsonl", "trace.jsonl")
        if (folder.path / name).exists()  # a short training has no tenth step to trace
        for record in trace.read(folder.path / name)
    ]
    return (evidence.hash, digest(own.model.state_dict()), logs), plug.done


def differences(training: Callable[[bool], Lesson], points: Sequence[str]) -> dict[str, str]:
    """What of the training that is resumed at each point is not the unbroken one's; nothing where all is."""
    found, names = {}, ("states", "weights", "logs")
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        whole, _ = train(Path(place, "whole"), training, "never")
        for point in points:
            broken, interruptions = train(Path(place, point), training, point)
            wrong = [name for name, a, b in zip(names, whole, broken, strict=True) if a != b]
            if wrong or not interruptions:
                found[point] = ", ".join(wrong) or "was not interrupted"
    return found


def differs(cell: dict[str, Any]) -> str | None:
    """What of a cell's resumed training is not the unbroken one's; None when all is."""
    return differences(partial(small, cell), [cell["point"]]).get(cell["point"])


def family_differs(family: str) -> dict[str, str]:
    """The same for a family's mini with its own recipe, at each of three points."""
    return differences(lambda resumed: lesson(family), POINTS)


def table(cells: int, families: int, wrong: int) -> str:
    lives = cells + families * len(POINTS)
    lines = [
        f"{lives} interrupted trainings, {lives - wrong} bit-identical to unbroken ones (torch {torch.__version__}): "
        f"the mini of each of {families} families with the family's own recipe, at {' · '.join(POINTS)}; and "
        f"{cells} of a small network, in which every two values of the axes meet.",
        "",
        "| axis | values |",
        "|---|---|",
    ]
    values = {name: ", ".join(str(v) if name != "workers" else f"{v[0]} → {v[1]}" for v in AXES[name]) for name in AXES}
    return "\n".join([*lines, *(f"| {name} | {text} |" for name, text in values.items())])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=0, help="only the first so many, and nothing is written")
    options = parser.parse_args()
    cells = [*cover(0), *cover(1)]  # every pair of values twice, in other company
    chosen, wrong = cells[: options.cells or None], 0
    for number, cell in enumerate(chosen):
        if not number % 20:
            print(f"{number} of {len(chosen)}", flush=True)
        if problem := differs(cell):
            wrong += 1
            print(f"{problem}: {cell}", flush=True)
    for family in FAMILIES:
        for point, problem in family_differs(family).items():
            wrong += 1
            print(f"{problem}: {family} at {point}", flush=True)
    print(table(len(chosen), len(FAMILIES), wrong))
    if not options.cells:
        write("reliability", "resume matrix", table(len(chosen), len(FAMILIES), wrong))
    raise SystemExit(wrong > 0)
