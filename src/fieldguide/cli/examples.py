"""A network of the catalog, or of a run, with an input of the shape that it takes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fieldguide import catalog
from fieldguide.errors import FieldguideError, unknown

if TYPE_CHECKING:
    from torch import nn

    from fieldguide.objectives.phase import Batch
    from fieldguide.shapes import Tensor

LENGTH = 128


class Sample(NamedTuple):
    """A network and what it is called with."""

    model: "nn.Module"
    example: "tuple[Tensor, ...]"
    build: "Callable[[int], nn.Module] | None" = None
    """The same network for another length or image side, where one network takes only one."""


def sample_of(
    name: str, *, batch: int = 1, image_size: int | None = None, length: int | None = None, device: str = "cpu"
) -> Sample:
    """By a name of the catalog or the folder of a finished run; raises FieldguideError for what is neither."""
    row = catalog.find(name)
    if row is None:
        if Path(name).is_dir() or "/" in name:
            return _of_run(Path(name), batch, image_size, length, device)
        raise unknown("model or run", name, catalog.names(), "`fieldguide models` lists all models")
    import torch

    from fieldguide.models import create_model
    from fieldguide.models.build import sizes

    fields = sizes(row)[name].__dataclass_fields__
    native = row.mini_image if name.endswith("_mini") else row.image
    side = image_size or (native[1] if native else None)
    sized = next((field for field in ("image_size", "max_len") if field in fields), None)

    def make(size: int | None, place: str) -> "nn.Module":
        overrides: dict[str, Any] = {sized: size} if sized and size else {}
        with torch.device(place):
            return create_model(name, **overrides)

    model = make(side, device)
    return Sample(model, _example(model, row.task, batch, side, length, device), lambda size: make(size, "meta"))


def batches_of(path: Path, batch: int, device: str) -> "Iterator[Batch]":
    """The batches with which a run was trained, as its own loader makes them, but of this size.

    Raises FieldguideError when the data are no longer there, or the run does not say which they were.
    """
    from dataclasses import replace

    import torch

    from fieldguide.cli.job import Job
    from fieldguide.cli.tasks import task_of
    from fieldguide.train.fitting import feeds_of
    from fieldguide.train.recipe import load_recipe
    from fieldguide.train.run import RunFolder

    run = RunFolder.open(path)
    job = Job.recall(run)
    recipe = replace(load_recipe(file=run.recipe), batch_size=batch)
    train, _, _ = feeds_of(task_of(job).open(job, run).data, recipe, torch.device(device))
    return train.batches(0)


def _of_run(path: Path, batch: int, image_size: int | None, length: int | None, device: str) -> Sample:
    from fieldguide.models import load_model, read_config
    from fieldguide.train.run import RunFolder

    run = RunFolder.open(path)
    if not run.model.is_dir():
        raise FieldguideError(f"{path} holds no trained model yet; finish it: fieldguide train --resume {path}")
    stored = read_config(run.model)
    data = stored.data or {}
    side = image_size or next(iter(data.get("image_size", ())), None)
    model = load_model(run.model).to(device)
    return Sample(model, _example(model, stored.row.task, batch, side, length or data.get("length"), device))


def _example(
    model: Any, task: str, batch: int, side: int | None, length: int | None, device: str
) -> "tuple[Tensor, ...]":
    import torch

    config = model.config
    with torch.device(device):
        if task == "regress":
            return (torch.randn(batch, config.in_features),)
        if side is not None:
            return (torch.randn(batch, config.in_channels, side, side),)
        n: int = min(LENGTH, getattr(config, "max_len", LENGTH)) if length is None else length
        tokens = torch.randint(min(4, config.vocab_size - 1), config.vocab_size, (batch, n))
        return (tokens, tokens) if task == "translate" else (tokens,)
