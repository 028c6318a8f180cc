"""Images, each of one class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from fieldguide.cli.job import Job, source
from fieldguide.cli.pretrained import Pretrained
from fieldguide.cli.tasks.classes import judged, named, ranking
from fieldguide.cli.tasks.task import PARTICULAR, Facts, Task, Trained, begins
from fieldguide.data import ImageData, Split, normalize, open_images
from fieldguide.data.decode import read_image
from fieldguide.data.sources import open_split
from fieldguide.errors import FieldguideError
from fieldguide.models import load_model, read_config
from fieldguide.objectives import Classification
from fieldguide.report import Predictions, worst_mistakes
from fieldguide.shapes import Float, Tensor
from fieldguide.train.pieces import as_many_as_fit
from fieldguide.train.recipe import Recipe
from fieldguide.train.run import RunFolder

BATCH = 256
OnBadFile = Literal["stop", "skip"]


@dataclass(frozen=True, kw_only=True)
class Images(Task):
    """Images and their classes."""

    purpose = "it learns the class of an image: a folder with a sub-folder per class, a CSV of path,label, IDX or .npz"
    unit = "images"
    embedded = "digits"
    options = frozenset({"image_size", "channels", "on_bad_file"})

    data: ImageData
    start: Pretrained | None

    @classmethod
    def open(cls, job: Job, run: RunFolder | None) -> "Images":
        start = Pretrained.of(job) if job.weights and begins(run) else None
        job = start.prepare(job) if start else job
        return cls(job=job, data=open_data(job), start=start)

    @property
    def uses(self) -> frozenset[str]:
        return frozenset(PARTICULAR)

    def network(self) -> nn.Module:
        """The fresh or old head is for these classes; the size of the images is the network's where it has one."""
        if self.start:
            return self.start.network(self.data)
        size = {"image_size": self.data.size[0]} if self.job.has("image_size") else {}
        return self.job.network(num_classes=len(self.data.classes), in_channels=self.data.channels, **size)

    def objective(self, recipe: Recipe) -> Classification:
        return Classification.of(recipe, self.data.train.labels, len(self.data.classes))

    def preparation(self) -> dict[str, Any]:
        d = self.data
        return {"kind": "images", "classes": list(d.classes), "channels": d.channels, "image_size": list(d.size),
                "mean": list(d.mean), "std": list(d.std), "resize": "cover, then centre crop"}  # fmt: skip

    def facts(self) -> Facts:
        d, (height, width) = self.data, self.data.size
        skipped = f", {len(d.skipped)} unreadable files left out, first {d.skipped[0]}" if d.skipped else ""
        return {
            "data": f"{d.name}: {len(d.train):,} training, {len(d.val):,} validation and {len(d.test):,} test images, "
            f"{height}×{width}×{d.channels}, {len(d.classes)} classes{skipped}"
        }

    def examine(self, run: RunFolder, device: str) -> Mapping[str, float]:
        TrainedImages.of(run, device).predictions(self.data.test).save(run.path)
        return {}

    def next_command(self, run: str) -> str:
        return f"fieldguide predict {run} IMAGE"

    @classmethod
    def trained(cls, run: RunFolder, device: str) -> "TrainedImages":
        return TrainedImages.of(run, device)

    @classmethod
    def evaluate(cls, run: RunFolder, data: str | None, device: str, on_bad_file: str) -> dict[str, Any]:
        trained = TrainedImages.of(run, device)
        images = _evaluated(run, trained, data, cast(OnBadFile, on_bad_file))
        return {"images": len(images), **judged(trained.logits_of(images), images.labels, trained.classes)}


def open_data(job: Job) -> ImageData:
    """The images at a size that suits the network: their own where it can be, else the nearest that it takes."""
    sides = job.row.mini_image if job.model.endswith("_mini") else job.row.image
    data = _open(job, job.image_size or job.overrides.get("image_size") or sides)
    patch = job.number("patch_size", 1)
    if job.image_size is None and data.size[0] % patch:
        data = _open(job, max(patch, round(data.size[0] / patch) * patch))
    return replace(data, mean=tuple(job.mean), std=tuple(job.std)) if job.mean and job.std else data


def _open(job: Job, size: int | tuple[int, int] | None) -> ImageData:
    return open_images(job.data, image_size=size, channels=job.channels, on_bad_file=job.on_bad_file or "stop")


def _evaluated(run: RunFolder, trained: "TrainedImages", data: str | None, on_bad_file: OnBadFile) -> Split:
    job = Job.recall(run)
    if data is None or source(data) == job.data:  # never its training images: they would flatter it
        own = open_data(job)
        if own.fingerprint != job.fingerprint:
            raise FieldguideError(f"the images at {job.data} have changed since the run; name others with --data")
        return own.test
    return open_split(
        source(data),
        classes=trained.classes,
        image_size=trained.size,
        channels=trained.channels,
        on_bad_file=on_bad_file,
    )


@dataclass(frozen=True, kw_only=True)
class TrainedImages(Trained):
    """A classifier in evaluation mode with its classes and the size, channels and statistics of its training images."""

    model: nn.Module
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, run: RunFolder, device: str = "cpu") -> "TrainedImages":
        data = read_config(run.model).data
        assert data
        return cls(
            model=load_model(run.model).to(device),
            classes=tuple(data["classes"]),
            channels=data["channels"],
            size=tuple(data["image_size"]),
            mean=torch.tensor(data["mean"]),
            std=torch.tensor(data["std"]),
        )

    def predict(self, inputs: Sequence[str], top: int) -> list[dict[str, Any]]:
        if not inputs:
            raise FieldguideError("predict needs image files: fieldguide predict RUN IMAGE…")
        chances, chosen = self.logits_of_files([Path(file) for file in inputs]).softmax(1).topk(self.at_most(top))
        return [
            {"image": file, "classes": named(self.classes, cs, ps)}
            for file, cs, ps in zip(inputs, chosen.tolist(), chances.tolist(), strict=True)
        ]

    def shown(self, answer: Mapping[str, Any]) -> str:
        return "\n".join([answer["image"], *ranking(answer["classes"])])

    def at_most(self, top: int) -> int:
        return min(top, len(self.classes))

    def read(self, file: Path) -> Tensor:
        """An image file exactly as training would have seen it; raises FieldguideError that names it."""
        return read_image(file, self.channels, self.size)

    def prepare(self, images: Tensor) -> Float[Tensor, "b c h w"]:
        """uint8 images (b, c, h, w) as the network takes them: normalised, on its device."""
        return normalize(images, self.mean, self.std).to(self.device)

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Float[Tensor, "b k"]:
        """Logits of uint8 images (b, c, h, w) that have the right size and channels."""
        return self.model(self.prepare(images)).float().cpu()

    def logits_of_files(self, files: Sequence[Path]) -> Float[Tensor, "n k"]:
        """Logits of image files, in their order."""

        def logits(size: int) -> Tensor:
            groups = [files[start : start + size] for start in range(0, len(files), size)]
            return torch.cat([self.logits(torch.stack([self.read(file) for file in group])) for group in groups])

        return as_many_as_fit(BATCH, logits)

    def logits_of(self, split: Split) -> Float[Tensor, "n k"]:
        """Logits of a whole split, in its order."""
        places = torch.arange(len(split))
        return as_many_as_fit(
            BATCH, lambda size: torch.cat([self.logits(split.batch(some)[0]) for some in places.split(size)])
        )

    def predictions(self, split: Split) -> Predictions:
        """What the report draws."""
        logits = self.logits_of(split)
        worst = worst_mistakes(logits, split.labels)
        images = split.batch(worst)[0] if len(worst) else torch.empty(0, self.channels, *self.size, dtype=torch.uint8)
        names = [str(split.names[i]) for i in worst.tolist()]
        return Predictions.of(self.classes, logits, split.labels, worst, images, names)
