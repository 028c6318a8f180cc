"""How a training shows itself: a live line on a terminal, a line an epoch in a file, JSON for a program."""

import json
import sys
from contextlib import AbstractContextManager
from time import perf_counter
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fieldguide.cli.terminal import console
from fieldguide.report.figures import FIGURES, headline
from fieldguide.trace import Record
from fieldguide.train.callbacks import Callback

if TYPE_CHECKING:
    from fieldguide.train.loop import Loop

PERIOD = 0.1
"""Seconds between two changes of the live line."""


def progress(json: bool, unit: str) -> "LiveLine | EpochLines | JsonLines":
    """What suits the place where stdout goes; ``unit`` is what the samples are."""
    if json:
        return JsonLines()
    return LiveLine(unit) if sys.stdout.isatty() else EpochLines(unit)


class JsonLines(Callback, AbstractContextManager):
    """Every epoch's record, as it stands in metrics.jsonl."""

    def on_epoch(self, record: Record) -> None:
        print(json.dumps(record), flush=True)

    def __exit__(self, *exception: object) -> None: ...


class EpochLines(Callback, AbstractContextManager):
    """``epoch  3/30   loss 0.1234   val accuracy 98.61%   5,123 images/s``."""

    def __init__(self, unit: str) -> None:
        self.unit = unit

    def on_epoch(self, record: Record) -> None:
        epochs = self.loop.epochs
        place = f"epoch {record['epoch'] + 1:>{len(str(epochs))}}/{epochs}"
        rate = f"{record['samples_per_second']:,.0f} {self.unit}/s"
        print(f"{place}   loss {record['train_loss']:.4f}{validation(record)}   {rate}", flush=True)

    def __exit__(self, *exception: object) -> None: ...


class LiveLine(Callback, AbstractContextManager):
    """Bar, place, loss, validation, rate and time left on one line; drawn at most ten times a second."""

    def __init__(self, unit: str) -> None:
        text = TextColumn("epoch {task.fields[epoch]}  loss {task.fields[loss]:.4f}{task.fields[validation]}  "
                          "{task.fields[rate]:,.0f} " + f"{unit}/s")  # fmt: skip
        self.bar = Progress(BarColumn(24), text, TextColumn("[dim]left[/]"), TimeRemainingColumn(compact=True),
                            console=console(), refresh_per_second=1 / PERIOD)  # fmt: skip
        self.task: TaskID | None = None
        self.drawn = self.seconds = 0.0
        self.samples, self.validation = 0, ""

    def on_start(self, loop: "Loop") -> None:
        super().on_start(loop)
        if self.task is None:  # else the training has gone back to a checkpoint
            self.task = self.bar.add_task("", total=loop.steps, epoch="", loss=0.0, validation="", rate=0)
            self.bar.start()
        self.bar.update(self.task, completed=loop.progress.step)

    def on_step(self, record: Record) -> None:
        self.samples, self.seconds = self.samples + record["samples"], self.seconds + record["seconds"]
        if perf_counter() - self.drawn > PERIOD or self.loop.progress.step == self.loop.steps:
            self.draw(record)

    def on_epoch(self, record: Record) -> None:
        self.validation = validation(record)

    def draw(self, record: Record) -> None:
        assert self.task is not None
        self.drawn = perf_counter()
        place = f"{record['epoch'] + 1}/{self.loop.epochs}"
        rate = self.samples / max(self.seconds, 1e-9)
        self.bar.update(self.task, completed=self.loop.progress.step, epoch=place, loss=record["loss"],
                        validation=self.validation, rate=rate)  # fmt: skip

    def on_end(self) -> None:
        assert self.task is not None
        self.bar.update(self.task, validation=self.validation)

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()


def validation(record: Record) -> str:
    name = headline(record)
    if name is None:
        return ""
    return f"   val {FIGURES[name].title} {FIGURES[name].format.format(record[f'val_{name}'])}"
