"""How images must be prepared for public weights: what was done in training, or the network is given strange numbers.

No checkpoint's tensors say it. What lies beside them does: timm's and transformers' configuration files, and the name
of a torchvision file, which carries a hash. Without these, the numbers are the layout's usual ones.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.nn.functional import interpolate

from fieldguide.bounded import read_json
from fieldguide.catalog import find
from fieldguide.errors import DamagedFile

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TO_PLUS_MINUS_ONE = (0.5, 0.5, 0.5)
"""Mean and deviation that map 0–1 to −1…1, as Inception and Google's own networks have it."""
_HASH = re.compile(r"-[0-9a-f]{8}\.")
_PILLOW_FILTERS = {2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Scale the shorter side to ``resize`` pixels, cut ``size`` out of the centre, subtract and divide."""

    mean: tuple[float, ...] = IMAGENET_MEAN
    """Per channel, in 0–1 units."""
    std: tuple[float, ...] = IMAGENET_STD
    size: int = 224
    """Side of what the network sees, in pixels."""
    resize: int = 256
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @classmethod
    def of(cls, entries: Mapping[str, Any]) -> "Preprocessing":
        """From exactly these fields, as a stranger's file may hold them; ValueError for numbers that cannot be."""
        means, stds = (tuple(float(number) for number in entries[key]) for key in ("mean", "std"))
        size, resize, kernel = (entries[key] for key in ("size", "resize", "interpolation"))
        if not (0 < size <= resize <= 10_000 and len(means) == len(stds) and all(number > 0 for number in stds)):
            raise ValueError(f"mean {means}, std {stds}, size {size} of {resize}")
        interpolation = "bilinear" if kernel == "bilinear" else "bicubic"
        return cls(mean=means, std=stds, size=int(size), resize=int(resize), interpolation=interpolation)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 images ``(b, c, h, w)`` as the network was trained to see them, ``(b, c, size, size)``."""
        shorter = min(images.shape[2:])
        height, width = (int(self.resize * side / shorter) for side in images.shape[2:])
        scaled = interpolate(images.float(), (height, width), mode=self.interpolation, antialias=True)
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        cut = scaled[:, :, top : top + self.size, left : left + self.size].round().clamp(0, 255) / 255
        mean, std = (cut.new_tensor(numbers)[:, None, None] for numbers in (self.mean, self.std))
        return (cut - mean) / std


def preprocessing_of(place: Path | None, name: str, layout: str) -> Preprocessing | None:
    """What belongs to the weights at ``place`` of the network called ``name``; None for our own layouts and for text.

    Raises :class:`DamagedFile` for a configuration file that does not hold what its library writes.
    """
    row = find(name)
    if row is not None and row.image is None:
        return None
    folder = place if place is None or place.is_dir() else place.parent
    if folder is not None:
        try:
            found = _transformers(_entries(folder / "preprocessor_config.json")) or _timm(
                _entries(folder / "config.json")
            )
        except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise DamagedFile(
                f"how to prepare images for {place} cannot be read from the .json files beside it "
                f"({type(error).__name__}: {error}); copy them again, or move the weights away from them"
            ) from error
        if found:
            return found
    if layout == "cifar":
        return Preprocessing(size=32, resize=32)
    if layout in ("torchvision", "timm", "timm_tf", "transformers"):
        return _torchvision(name, place.name if place is not None else "")
    return None


def _transformers(entries: Mapping[str, Any]) -> Preprocessing | None:
    """From ``preprocessor_config.json``; old files have a number for the size, new ones a table of sides."""
    if "image_mean" not in entries:
        return None
    resize = size = _side(entries.get("size", 224))
    if entries.get("do_center_crop", "crop_size" in entries):
        size = _side(entries.get("crop_size", size))
    if "crop_pct" in entries and size < 384:  # below it, the size is the crop's and not the resized image's
        resize = int(size / (entries["crop_pct"] or 1))
    kernel = _PILLOW_FILTERS.get(entries.get("resample", 2), "bicubic")
    return Preprocessing.of({"mean": entries["image_mean"], "std": entries["image_std"], "size": size,
                             "resize": resize, "interpolation": kernel})  # fmt: skip


def _timm(entries: Mapping[str, Any]) -> Preprocessing | None:
    """From the ``pretrained_cfg`` in ``config.json``."""
    if "pretrained_cfg" not in entries:
        return None
    entries = entries["pretrained_cfg"]
    size = entries["input_size"][-1]
    usual = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "interpolation": "bicubic"}
    return Preprocessing.of({**usual, **entries, "size": size, "resize": int(size / entries.get("crop_pct", 0.875))})


def _torchvision(name: str, file: str) -> Preprocessing:
    """From torchvision's own list: the file with this hash, else the network's first weights, else ImageNet's usual."""
    from torchvision.models import get_model_weights, list_models

    if name not in list_models():
        return Preprocessing()
    entries = list(get_model_weights(name))
    digest = _HASH.search(file)
    chosen = next((entry for entry in entries if digest and digest[0] in entry.url), entries[0])
    preset = chosen.transforms()
    # The public Inception networks remap their ImageNet-normalised input to −1…1; ours take it as that.
    remapped = name in ("googlenet", "inception_v3")
    return Preprocessing(
        mean=TO_PLUS_MINUS_ONE if remapped else tuple(preset.mean),
        std=TO_PLUS_MINUS_ONE if remapped else tuple(preset.std),
        size=preset.crop_size[0],
        resize=preset.resize_size[0],
        interpolation=preset.interpolation.value,
    )


def _entries(path: Path) -> Mapping[str, Any]:
    entries = read_json(path) if path.is_file() else {}
    if not isinstance(entries, Mapping):
        raise TypeError(f"{path.name} is no table")
    return entries


def _side(size: Any) -> int:
    return min(size.values()) if isinstance(size, Mapping) else size
