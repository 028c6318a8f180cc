"""Where a stranger's file can come in, each as a user would give it."""

import contextlib
import io
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import matplotlib.backends.backend_agg  # noqa: F401  (what verbs import when they run is no cost of a file)
import PIL.Image
import sklearn.datasets  # noqa: F401

from fieldguide import cli, create_model, load_weights
from fieldguide.cli.doctor import records_of
from fieldguide.cli.job import Job
from fieldguide.data import open_images, open_labelled, open_pairs, open_table, open_tokenizer, read_text
from fieldguide.errors import FieldguideError
from fieldguide.models.store import load_model
from fieldguide.report import build_report
from fieldguide.report.comparison import compare
from fieldguide.train.recipe import load_recipe
from fieldguide.train.run import RunFolder

for verb in cli.VERBS:
    import_module(f"fieldguide.cli.{verb}")
import_module("fieldguide.cli.processes")
import_module("fieldguide.profile.measuring")
import_module("fieldguide.models.exporting")
PIL.Image.init()

COMMANDS = {
    "predict": "predict {run} {run}/x.png",
    "predict-words": "predict {run} words",
    "eval": "eval {run} --device cpu",
    "report": "report {run}",
    "compare": "compare {run} {run}/../other --out {run}/comparison.html",
    "doctor": "doctor check {run}",
    "doctor-report": "doctor check {run} --report",
    "resume": "train --resume {run} --device cpu",
    "weights": "train resnet_mini --weights {run} --out {run}/../out --device cpu",
    "export": "export {run} --format torch-export",
    "generate": "generate {run} --prompt a --max-new-tokens 2",
    "profile": "profile {run} --device cpu --seconds 0.1",
    "look": "look filters {run}",
    "schedule": "look schedule {run}",
}
"""By what they do with a run, each a whole command."""


def command(name: str) -> Callable[[Path], None]:
    """The verb as a user calls it; what it says when it refuses comes back as the error that it was."""

    def carry_out(run: Path) -> None:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = cli.run([part.replace("{run}", str(run)) for part in COMMANDS[name].split()])
        if code == 2 and said.getvalue().startswith("error: "):
            raise FieldguideError(said.getvalue().removeprefix("error: ").removesuffix("\n"))
        assert code == 0, f"exit {code}: {said.getvalue()}"

    return carry_out


ENTRANCES: dict[str, Callable[[Path], object]] = {
    **{f"command {name}": command(name) for name in COMMANDS},
    "weights-of-images": lambda path: load_weights(create_model("resnet_mini"), str(path)),
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
