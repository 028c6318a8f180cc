"""What a run was asked to do besides its recipe; kept in ``environment.json`` so that ``--resume`` repeats it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from torch import nn

from fieldguide.bounded import read_json
from fieldguide.catalog import Architecture, find
from fieldguide.errors import DamagedFile, did_you_mean
from fieldguide.models import create_model
from fieldguide.models.build import configure, construct, default_config, fits, sizes
from fieldguide.train.run import RunFolder, replace_text

EMBEDDED = ("digits", "python-source", "python-lines", "dates")
"""Data that need no file."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """Each kind of data (``cli.tasks``) reads the options that concern it; the others stay None."""

    model: str
    data: str
    """A source's name, or an absolute path, so that a run can be resumed from any folder."""
    weights: str | None = None
    """What the network begins with: a file, a folder or a repository; None for random values."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the network's config that the user decided."""
    image_size: int | None = None
    channels: Literal[1, 3] | None = None
    on_bad_file: Literal["stop", "skip"] | None = None
    mean: Sequence[float] | None = None
    """Per channel, in 0–1 units, where the weights and not the data decide it."""
    std: Sequence[float] | None = None
    head: Literal["masked_lm", "classify"] | None = None
    tokenizer: str | None = None
    length: int | None = None
    """Tokens of a window of text, and the most that a text may have."""
    on_long: Literal["stop", "cut"] | None = None
    target: str | None = None
    on_missing: Literal["stop", "drop", "mean"] | None = None
    unit: str = "images"
    """What the samples of a step are."""
    config: dict[str, Any] | None = None
    """Of the network, once it has been built."""
    fingerprint: str | None = None
    """Of the data, once they have been read."""

    def remember(self, run: RunFolder) -> None:
        facts = read_json(run.environment)
        replace_text(run.environment, json.dumps(facts | {"job": asdict(self)}, indent=2) + "\n")

    @classmethod
    def recall(cls, run: RunFolder) -> "Job":
        """Raises DamagedFile when the run's environment.json does not hold a job."""
        try:
            job = cls(**read_json(run.environment)["job"])
            kinds = get_type_hints(cls)
            if wrong := [name for name, kind in kinds.items() if not fits(getattr(job, name), kind)]:
                raise ValueError(f"{wrong[0]} is {getattr(job, wrong[0])!r:.40}")
            if find(job.model) is None:
                raise ValueError(f"model {job.model!r:.40} on {job.data!r:.40}")
            return job
        except (ValueError, KeyError, TypeError) as problem:
            raise DamagedFile(f"{run.environment} does not say what the run was asked to do ({problem})") from None

    def network(self, **decided: Any) -> nn.Module:
        """The job's network with random weights: as it was built before, or with what the data and the user decide."""
        if self.config is None:
            return create_model(self.model, **decided | dict(self.overrides))
        return construct(self.row, configure(default_config(self.row), self.config, self.model), self.model)

    @property
    def row(self) -> Architecture:
        row = find(self.model)
        assert row
        return row

    def has(self, field: str) -> bool:
        """Whether the model's config has such a number."""
        return self.number(field, None) is not None

    def number(self, field: str, default: Any) -> Any:
        """A number of the model's config: the user's, or its size's own."""
        return self.overrides.get(field, getattr(sizes(self.row)[self.model], field, default))


def source(text: str) -> str:
    """Embedded data by their name; a path made absolute, so that it means the same in every folder.

    Two files, as a translation has, are parted by a comma.
    """
    if text in EMBEDDED:
        return text
    if "," in text and not Path(text).expanduser().exists():
        return ",".join(str(Path(part).expanduser().resolve()) for part in text.split(","))
    return str(Path(text).expanduser().resolve())


def suggestion(text: str) -> str:
    """For a source that is not there: the embedded one that was meant."""
    return did_you_mean(Path(text).name, EMBEDDED)
