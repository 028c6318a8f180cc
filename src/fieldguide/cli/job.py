"""What a run was asked to do besides its recipe; kept in ``environment.json`` so that ``--resume`` repeats it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from fieldguide.catalog import Architecture, find
from fieldguide.data import ImageData, open_images
from fieldguide.errors import DamagedFile
from fieldguide.models import create_model
from fieldguide.models.build import configure, construct, default_config, sizes
from fieldguide.train.run import RunFolder, replace_text


@dataclass(frozen=True, kw_only=True)
class Job:
    model: str
    data: str
    """A source's name, or an absolute path, so that a run can be resumed from any folder."""
    image_size: int | None = None
    channels: Literal[1, 3] | None = None
    on_bad_file: Literal["stop", "skip"] = "stop"
    weights: str | None = None
    """What the network begins with: a file, a folder or a repository; None for random values."""
    mean: Sequence[float] | None = None
    """Per channel, in 0–1 units, where the weights and not the data decide it."""
    std: Sequence[float] | None = None
    config: dict[str, Any] | None = None
    """Of the network, once it has been built."""
    fingerprint: str | None = None
    """Of the data, once they have been read."""

    def remember(self, run: RunFolder) -> None:
        facts = json.loads(run.environment.read_text())
        replace_text(run.environment, json.dumps(facts | {"job": asdict(self)}, indent=2) + "\n")

    @classmethod
    def recall(cls, run: RunFolder) -> "Job":
        """Raises DamagedFile when the run's environment.json does not hold a job."""
        try:
            return cls(**json.loads(run.environment.read_text())["job"])
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise DamagedFile(f"{run.environment} does not say what the run was asked to do ({problem})") from None

    def open_data(self) -> ImageData:
        """The images at a size that suits the model: their own where it can be, else the nearest that it takes."""
        data = self._open(self.image_size or self._range())
        patch = self._config("patch_size", 1)
        if self.image_size is None and data.size[0] % patch:
            data = self._open(max(patch, round(data.size[0] / patch) * patch))
        return replace(data, mean=tuple(self.mean), std=tuple(self.std)) if self.mean and self.std else data

    def network(self, data: ImageData) -> nn.Module:
        """The job's network with random weights: as it was built before, or with what the data decide."""
        if self.config is None:
            return create_model(self.model, **self.overrides(data))
        return construct(self._row, configure(default_config(self._row), self.config, self.model), self.model)

    def overrides(self, data: ImageData) -> dict[str, Any]:
        """The fields of the model's config that the data decide."""
        size = {"image_size": data.size[0]} if self.has("image_size") else {}
        return {"num_classes": len(data.classes), "in_channels": data.channels, **size}

    def _open(self, size: int | tuple[int, int] | None) -> ImageData:
        return open_images(self.data, image_size=size, channels=self.channels, on_bad_file=self.on_bad_file)

    @property
    def _row(self) -> Architecture:
        row = find(self.model)
        assert row
        return row

    def _range(self) -> tuple[int, int] | None:
        return self._row.mini_image if self.model.endswith("_mini") else self._row.image

    def has(self, field: str) -> bool:
        """Whether the model's config has such a number."""
        return self._config(field, None) is not None

    def _config(self, field: str, default: Any) -> Any:
        return getattr(sizes(self._row)[self.model], field, default)


def source(text: str) -> str:
    """``digits`` as it is; a path made absolute, so that it means the same in every folder."""
    return text if text == "digits" else str(Path(text).expanduser().resolve())
