"""A labelled image data set, ready to train on: three parts that never overlap, and what prediction must repeat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from fieldguide.data.arrays import ArraySet, array_set, as_pair
from fieldguide.data.feed import BatchSettings, Feed
from fieldguide.data.pixels import at_size
from fieldguide.data.resize import ChooseSize, convert_channels, natural_size
from fieldguide.data.splits import TEST_SHARE, VALIDATION_LIMIT, VALIDATION_SHARE, Split
from fieldguide.data.transforms import AugmentSettings
from fieldguide.errors import FieldguideError, did_you_mean
from fieldguide.shapes import Int, Tensor, UInt8


@runtime_checkable
class FeedSettings(BatchSettings, Protocol):
    """What batches of images depend on besides the images; a ``fieldguide.Recipe`` has it all."""

    @property
    def augment(self) -> AugmentSettings: ...


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images of one task in three parts.

    A source without a test part gives 20 % of each class to it, and one without a validation part 10 % of what
    remains for training (at most 5,000 images); the choice is fixed by the data and ``split_seed``, never by a
    training seed, so runs with different seeds are comparable.
    """

    name: str
    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int]
    """(height, width)"""
    mean: tuple[float, ...]
    """Per channel, of the training part, in 0–1 units."""
    std: tuple[float, ...]
    fingerprint: str
    """SHA-256 of the source: class names, and each part's sample names, labels and content before any resizing.

    Content is the bytes of the files, or of the uint8 pixels of a source that has no file for each image.
    """
    skipped: tuple[str, ...] = ()
    """Files left out because they could not be read."""

    def feeds(self, recipe: FeedSettings) -> tuple[Feed, Feed, Feed]:
        """Batches of the three parts; those of the training part are shuffled and augmented."""
        feed = partial(Feed, batch_size=recipe.batch_size, seed=recipe.seed, mean=self.mean, std=self.std)
        test, val = (feed(part, shuffle=False) for part in (self.test, self.val))
        return feed(self.train, augment=recipe.augment), val, test

    @staticmethod
    def from_arrays(
        images: Any,
        labels: Any,
        *,
        val: tuple[Any, Any] | None = None,
        test: tuple[Any, Any] | None = None,
        classes: Sequence[str] | None = None,
        image_size: int | tuple[int, int] | None = None,
        channels: int | None = None,
        name: str = "arrays",
        split_seed: int = 0,
    ) -> "ImageData":
        """A data set from arrays or tensors: images as ``fieldguide.data.arrays.as_pixels`` takes them.

        Labels are whole numbers or text; ``classes`` names the numbers 0, 1, …. ``val`` and ``test`` are further pairs
        of images and labels; those not given are split off.
        """
        given = {"train": (images, labels), "val": val, "test": test}
        parts = {part: as_pair(pair[0], pair[1], f"{name}: {part}") for part, pair in given.items() if pair is not None}
        choose_size = partial(natural_size, image_size=image_size)
        found = read_arrays(array_set(name, parts, classes), choose_size=choose_size, channels=channels)
        return assemble(found, split_seed=split_seed)


@dataclass(frozen=True, eq=False)
class Found:
    """What a source holds, before anything is split off: parts as the source divides them."""

    name: str
    parts: Mapping[str, Split]
    content: Mapping[str, bytes]
    """A digest of each part's images."""
    skipped: tuple[str, ...] = ()


def assemble(found: Found, *, split_seed: int = 0) -> ImageData:
    """Splits off the parts that the source lacks and measures the training part."""
    parts = dict(found.parts)
    if set(parts) == {"test"}:
        parts["train"] = parts.pop("test")
    if "train" not in parts:
        raise FieldguideError(f"{found.name} has no training part; give one called train")
    classes = parts["train"].classes
    if len(classes) < 2:
        raise FieldguideError(
            f"{found.name} has a single class ({', '.join(classes)}); a classifier needs at least two"
        )
    if "test" not in parts:
        parts["train"], parts["test"] = parts["train"].hold_out(TEST_SHARE, split_seed)
    if "val" not in parts:
        share = min(VALIDATION_SHARE, VALIDATION_LIMIT / len(parts["train"]))
        parts["train"], parts["val"] = parts["train"].hold_out(share, split_seed)
    train = parts["train"]
    mean, std = statistics(train)
    channels, height, width = train.pixels.shape
    return ImageData(
        name=found.name,
        train=train,
        val=parts["val"],
        test=parts["test"],
        classes=classes,
        channels=channels,
        size=(height, width),
        mean=mean,
        std=std,
        fingerprint=fingerprint(found),
        skipped=found.skipped,
    )


def statistics(split: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel in 0–1 units, from integer sums; 1 for a constant channel."""
    sums, squares = (moment.sum(0).double() for moment in split.pixels.moments())
    _, h, w = split.pixels.shape
    count = len(split) * h * w
    mean = sums / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    std[std == 0] = 255
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def digest(images: UInt8[Tensor, "n c h w"]) -> bytes:
    return sha256(f"{tuple(images.shape)}".encode() + images.contiguous().numpy().tobytes()).digest()


def fingerprint(found: Found) -> str:
    total = sha256()
    for part in sorted(found.parts):
        split = found.parts[part]
        named = (split.classes[i] for i in split.labels.tolist())
        rows = "\0".join(f"{name}\1{label}" for name, label in zip(split.names, named, strict=True))
        total.update(f"{part}\0{len(split)}\0{rows}\0".encode(errors="surrogateescape") + found.content[part])
    return total.hexdigest()


def class_names(values: Sequence[str]) -> tuple[str, ...]:
    """Sorted: by value when all are whole numbers, otherwise by spelling."""
    unique = set(values)
    numeric = all(name.isdecimal() for name in unique)
    return tuple(sorted(unique, key=lambda name: (int(name) if numeric else 0, name)))


def encode(
    labels: np.ndarray, classes: Sequence[str], where: str, names: Sequence[str] | None = None
) -> Int[Tensor, " n"]:
    """Class numbers of labels given as text or whole numbers; one outside the classes is an error that names it."""
    values, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    number = {name: i for i, name in enumerate(classes)}
    for value, index in zip(values, first, strict=True):
        if str(value) not in number:
            example = f" ({names[index]})" if names else f" (index {index})"
            listing = "" if len(classes) > 12 else f": {', '.join(classes)}"
            raise FieldguideError(
                f"label {str(value)!r} in {where}{example} is not among the {len(classes)} classes of the training "
                f"part{did_you_mean(str(value), classes) or listing}"
            )
    codes = np.array([number[str(value)] for value in values], dtype=np.int64)
    return torch.from_numpy(codes[inverse.reshape(-1)])


def read_arrays(
    source: ArraySet,
    *,
    classes: Sequence[str] | None = None,
    choose_size: ChooseSize = natural_size,
    channels: int | None = None,
) -> Found:
    learned = source.parts.get("train") or next(iter(source.parts.values()))
    classes = tuple(classes or source.classes or class_names(np.unique(learned[1]).astype(str).tolist()))
    counts = {images.shape[1]: part for part, (images, _) in source.parts.items()}
    if channels is None and len(counts) > 1:
        (one, first), (other, second), *_ = counts.items()
        raise FieldguideError(
            f"{source.name}: {first} has {one} channel(s) but {second} has {other}; "
            "choose channels=1 or channels=3 to convert them all"
        )
    size = choose_size({(images.shape[2], images.shape[3]) for images, _ in source.parts.values()})
    splits, content = {}, {}
    for part, (images, labels) in source.parts.items():
        content[part] = digest(images)
        pixels = at_size(convert_channels(images, channels or images.shape[1]), size)
        names = [f"{part} {i}" for i in range(len(images))]
        splits[part] = Split(pixels, encode(labels, classes, f"{source.name}: {part}"), names, classes)
    return Found(source.name, splits, content)
