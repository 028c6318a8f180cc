"""What ``train``, ``eval`` and ``predict`` do with each kind of data: one file a kind, chosen by network and data."""

from collections.abc import Sequence
from pathlib import Path

from fieldguide.cli.job import Job
from fieldguide.cli.tasks.images import Images, TrainedImages
from fieldguide.cli.tasks.labelled import Labelled
from fieldguide.cli.tasks.language import Language
from fieldguide.cli.tasks.masked import Masked
from fieldguide.cli.tasks.tables import Tables
from fieldguide.cli.tasks.task import Task, Trained
from fieldguide.cli.tasks.translation import Translation
from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.models import read_config
from fieldguide.train.run import RunFolder

TASKS: dict[str, Sequence[type[Task]]] = {
    "classify": (Images,),
    "encode": (Masked, Labelled),
    "generate": (Language,),
    "translate": (Translation,),
    "regress": (Tables,),
}
"""By the catalog's task; where a network has several, the first that suits the data is taken."""


def task_of(job: Job) -> type[Task]:
    """The kind of task of a job; raises FieldguideError for an option that means nothing to it."""
    kinds = TASKS[job.row.task]
    kind = next((kind for kind in kinds if kind.suits(job)), kinds[-1])
    for name in {name for task in (task for tasks in TASKS.values() for task in tasks) for name in task.options}:
        if getattr(job, name) is not None and name not in kind.options:
            option = name.replace("_", "-")
            raise FieldguideError(f"--{option} is not for {job.model} on {Path(job.data).name}; {kind.purpose}")
    return kind


def kind_of(run: RunFolder) -> type[Task]:
    """The kind of a finished run, from its network; raises FieldguideError when its training has not ended."""
    if not run.model.is_dir():
        raise FieldguideError(f"{run.path} holds no trained model yet; finish it: fieldguide train --resume {run.path}")
    stored = read_config(run.model)
    if stored.data is None:
        raise DamagedFile(f"{run.model} does not say how its inputs were prepared, so none can be given to it")
    kinds = TASKS[stored.row.task]
    return kinds[-1] if stored.data.get("classes") else kinds[0]


def trained(run: RunFolder, device: str = "cpu") -> Trained:
    """The finished network of a run, ready to be asked. Raises as :func:`kind_of`."""
    return kind_of(run).trained(run, device)


def trained_images(run: RunFolder, device: str = "cpu") -> TrainedImages:
    """The same for what only a network for images can do."""
    kind = kind_of(run)
    if kind is not Images:
        raise FieldguideError(f"{run.path} holds a network for {kind.unit}; this needs one for images")
    return Images.trained(run, device)
