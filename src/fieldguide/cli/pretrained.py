"""What ``fieldguide train MODEL --weights SOURCE`` begins with: a trained network, and how it wants its images."""

from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import nn

from fieldguide.cli.job import Job
from fieldguide.data import ImageData
from fieldguide.models import create_model, read_config
from fieldguide.models.heads import reset_head
from fieldguide.models.store import is_saved_model
from fieldguide.weights import load_weights
from fieldguide.weights.preprocessing import Preprocessing
from fieldguide.weights.source import HUB


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A network with its published (or our own earlier) weights, and its classes where they have names."""

    model: nn.Module
    preprocessing: Preprocessing | None
    classes: tuple[str, ...] | None

    @classmethod
    def of(cls, job: Job) -> "Pretrained":
        """The weights that a job names; raises FieldguideError when they are not this model's."""
        assert job.weights
        wishes = {"image_size": job.image_size if job.has("image_size") else None, "in_channels": job.channels}
        given: dict[str, Any] = {field: value for field, value in wishes.items() if value is not None}
        given |= job.overrides
        if not is_saved_model(job.weights):
            model = create_model(job.model, **given)
            load_weights(model, job.weights, strict=False)  # its head is for other classes anyway
            return cls(model=model, preprocessing=model.preprocessing, classes=None)  # pyright: ignore
        model, data = create_model(job.model, job.weights, **given), read_config(job.weights).data
        if data is None:
            return cls(model=model, preprocessing=model.preprocessing, classes=None)  # pyright: ignore
        side = min(data["image_size"])
        ours = Preprocessing(mean=tuple(data["mean"]), std=tuple(data["std"]), size=side, resize=side)
        return cls(model=model, preprocessing=ours, classes=tuple(data["classes"]))

    def prepare(self, job: Job) -> Job:
        """The job with images as the weights know them, unless the user decided otherwise."""
        channels: int = self.model.config.in_channels  # pyright: ignore
        if self.preprocessing is None:
            return replace(job, channels=channels)
        p = self.preprocessing
        mean, std = (
            numbers if len(numbers) == channels else (fmean(numbers),) * channels for numbers in (p.mean, p.std)
        )
        return replace(job, image_size=job.image_size or p.size, channels=channels, mean=mean, std=std)

    def network(self, data: ImageData) -> nn.Module:
        """The network for these classes: a fresh head, unless the old one is for the very same."""
        return self.model if self.classes == data.classes else reset_head(self.model, len(data.classes))


def weights_source(text: str) -> str:
    """A Hub address as it is; a path made absolute, and of a run its model."""
    if text.startswith(HUB):
        return text
    path = Path(text).expanduser().resolve()
    return str(path / "model" if is_saved_model(path / "model") else path)
