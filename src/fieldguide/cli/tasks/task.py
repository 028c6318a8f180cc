"""What every kind of data has in common for the verbs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from fieldguide.cli.job import Job
from fieldguide.errors import FieldguideError
from fieldguide.models import save_model
from fieldguide.objectives import Objective
from fieldguide.train.feeds import DataSet
from fieldguide.train.recipe import Recipe
from fieldguide.train.run import RunFolder

Facts = Mapping[str, str]
PARTICULAR = ("augment", "focal", "class_balance")
"""Fields of a recipe that not all kinds of data have a use for."""


class Trained(ABC):
    """A trained network with all that its inputs and answers need."""

    model: nn.Module

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @abstractmethod
    def predict(self, inputs: Sequence[str], top: int) -> list[dict[str, Any]]:
        """An answer for each input, as plain values."""

    @abstractmethod
    def shown(self, answer: Mapping[str, Any]) -> str:
        """An answer of ``predict`` for a reader."""


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """One kind of data, and what a network is to learn from it."""

    purpose: ClassVar[str]
    """What a network learns from which data, in a clause."""
    unit: ClassVar[str]
    """What the samples of a step are."""
    embedded: ClassVar[str]
    """The data that are taken when none are named."""
    options: ClassVar[frozenset[str]]
    """The fields of a job that this kind reads, of those that not all kinds do."""

    job: Job
    """With everything that opening the data decided."""
    data: DataSet

    @property
    def uses(self) -> frozenset[str]:
        """The fields of a recipe in ``PARTICULAR`` that mean something here."""
        return frozenset()

    def require(self, recipe: Recipe) -> None:
        """Raises FieldguideError for what a recipe asks and these data cannot have."""
        for name in PARTICULAR:
            if name not in self.uses and getattr(recipe, name) != getattr(Recipe(), name):
                kind = "images" if name == "augment" else "classes"
                raise FieldguideError(f"recipe: {name} is for {kind}, and {self.job.data} has none; leave it out")

    @classmethod
    def suits(cls, job: Job) -> bool:
        """Whether a job's data look like this kind; asked where a network has several."""
        return True

    @classmethod
    @abstractmethod
    def open(cls, job: Job, run: RunFolder | None) -> "Task":
        """Read the data; of a run under way, exactly as it read them."""

    @abstractmethod
    def network(self) -> nn.Module:
        """The network for these data, with the job's weights where a training begins with some."""

    @abstractmethod
    def objective(self, recipe: Recipe) -> Objective: ...

    @abstractmethod
    def preparation(self) -> dict[str, Any]:
        """How prediction must prepare its inputs, by ``models.schema.DATA_SCHEMAS``."""

    @abstractmethod
    def facts(self) -> Facts:
        """What is said about the data before training."""

    @abstractmethod
    def examine(self, run: RunFolder, device: str) -> Mapping[str, float]:
        """Leave in the run folder what the report draws of the test part; returns further figures of it."""

    @abstractmethod
    def next_command(self, run: str) -> str:
        """What to do with a trained network."""

    @classmethod
    @abstractmethod
    def trained(cls, run: RunFolder, device: str) -> Trained: ...

    @classmethod
    @abstractmethod
    def evaluate(cls, run: RunFolder, data: str | None, device: str, on_bad_file: str) -> dict[str, Any]:
        """Figures of a trained run on its test part or on other data, as plain values; first, of how many samples."""

    def remember(self, run: RunFolder) -> None:
        """Keep in a new run folder what the data alone do not say."""
        self.job.remember(run)

    def save(self, model: nn.Module, run: RunFolder) -> None:
        save_model(model, run.model, extra={"data": self.preparation()})


def begins(run: RunFolder | None) -> bool:
    """A run that died before its first checkpoint begins again, with the weights that it began with."""
    return run is None or not run.checkpoints.numbered()
