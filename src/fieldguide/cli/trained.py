"""A trained network as prediction needs it: the weights of a run and the preparation of images that belongs to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fieldguide.data import Split, normalize
from fieldguide.data.decode import read_image
from fieldguide.errors import FieldguideError
from fieldguide.models import load_model, read_config
from fieldguide.report import Predictions, worst_mistakes
from fieldguide.shapes import Float, Tensor
from fieldguide.train.run import RunFolder

BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A classifier in evaluation mode with its classes and the size, channels and statistics of its training images."""

    model: nn.Module
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, run: RunFolder, device: str = "cpu") -> "Trained":
        """The finished network of a run; raises FieldguideError when its training has not ended."""
        if not run.model.is_dir():
            raise FieldguideError(
                f"{run.path} holds no trained model yet; finish it: fieldguide train --resume {run.path}"
            )
        data = read_config(run.model).data
        if data is None:
            raise FieldguideError(
                f"{run.model} does not say how images were prepared, so none can be predicted with it"
            )
        return cls(
            model=load_model(run.model).to(device),
            classes=tuple(data["classes"]),
            channels=data["channels"],
            size=tuple(data["image_size"]),
            mean=torch.tensor(data["mean"]),
            std=torch.tensor(data["std"]),
        )

    def read(self, file: Path) -> Tensor:
        """An image file exactly as training would have seen it; raises FieldguideError that names it."""
        return read_image(file, self.channels, self.size)

    def prepare(self, images: Tensor) -> Float[Tensor, "b c h w"]:
        """uint8 images (b, c, h, w) as the network takes them: normalised, on its device."""
        return normalize(images, self.mean, self.std).to(next(self.model.parameters()).device)

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Float[Tensor, "b k"]:
        """Logits of uint8 images (b, c, h, w) that have the right size and channels."""
        return self.model(self.prepare(images)).float().cpu()

    def logits_of_files(self, files: Sequence[Path]) -> Float[Tensor, "n k"]:
        """Logits of image files, in their order."""
        groups = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
        return torch.cat([self.logits(torch.stack([self.read(file) for file in group])) for group in groups])

    def logits_of(self, split: Split) -> Float[Tensor, "n k"]:
        """Logits of a whole split, in its order."""
        return torch.cat([self.logits(split.batch(chosen)[0]) for chosen in torch.arange(len(split)).split(BATCH)])

    def predictions(self, split: Split) -> Predictions:
        """What the report draws."""
        logits = self.logits_of(split)
        probability, predicted = logits.softmax(1).max(1)
        worst = worst_mistakes(logits, split.labels)
        images = split.batch(worst)[0] if len(worst) else torch.empty(0, self.channels, *self.size, dtype=torch.uint8)
        names = tuple(str(split.names[i]) for i in worst.tolist())
        return Predictions(
            classes=self.classes,
            labels=split.labels,
            predicted=predicted,
            probability=probability,
            worst=worst,
            worst_images=images,
            worst_names=names,
        )
