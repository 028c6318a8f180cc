"""Where a stranger's file can come in, each as a user would give it."""

from collections.abc import Callable
from pathlib import Path

from fieldguide import create_model, load_weights
from fieldguide.cli.doctor import records_of
from fieldguide.cli.job import Job
from fieldguide.data import open_images, open_labelled, open_pairs, open_table, open_tokenizer, read_text
from fieldguide.models.store import load_model
from fieldguide.report import build_report
from fieldguide.report.comparison import compare
from fieldguide.train.recipe import load_recipe
from fieldguide.train.run import RunFolder

ENTRANCES: dict[str, Callable[[Path], object]] = {
    "weights": lambda path: load_weights(create_model("mlp_mini"), str(path)),
    "model": load_model,
    "checkpoint": lambda run: RunFolder.open(run).checkpoints.newest(),
    "job": lambda run: Job.recall(RunFolder.open(run)),
    "recipe": lambda path: load_recipe(file=path),
    "report": build_report,
    "compare": lambda run: compare([run, run.parent]),
    "trace": records_of,
    "images": lambda path: open_images(str(path)),
    "labelled": lambda path: open_labelled(str(path)),
    "pairs": lambda path: open_pairs(str(path)),
    "table": lambda path: open_table(str(path), target="y"),
    "text": lambda path: read_text(str(path)),
    "tokenizer": lambda path: open_tokenizer(str(path)),
}
