"""From uint8 images to what a network sees: random changes, drawn for each sample, then normalisation.

Every change is a frozen value called with (images, generator); it draws from that generator only.
Legend: b batch, c channels, h height, w width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log, pi
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Generator
from torch.nn import functional as F

from fieldguide.shapes import Bool, Float, Int, Tensor, UInt8


@runtime_checkable
class AugmentSettings(Protocol):
    """The numbers of ``fieldguide.Recipe().augment``; anything with these fields will do."""

    @property
    def shift(self) -> float: ...
    @property
    def rotate(self) -> float: ...
    @property
    def scale(self) -> float: ...
    @property
    def flip(self) -> bool: ...
    @property
    def erase(self) -> float: ...
    @property
    def mixup(self) -> float: ...
    @property
    def cutmix(self) -> float: ...


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Float[Tensor, "b c h w"]:
    """``(images / 255 − mean) / std`` of images (b, c, h, w), with mean and deviation (0–1 units) of each channel."""
    return _scale_and_shift(images, *_coefficients(mean, std))


def _coefficients(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    return (1 / (255 * std))[:, None, None], (mean / std)[:, None, None]


def _scale_and_shift(images: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
    # Two rounded operations: a fused one may round the rest of a vector differently, so that batch size would matter.
    return images.float().mul(factor).sub_(offset)


@dataclass(frozen=True)
class Flip:
    """Left and right exchanged with probability 1/2."""

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        b = len(images)
        chosen = torch.rand(b, generator=generator) < 0.5
        return torch.cat([images, images.flip(3)]).index_select(0, torch.arange(b) + b * chosen)


@dataclass(frozen=True)
class Shift:
    """Translation by whole pixels, up to ``share`` of each side; zeros move in (He et al. 2016 §4.2, padded crops)."""

    share: float

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        b, _, h, w = images.shape
        down, right = round(self.share * h), round(self.share * w)
        windows = F.pad(images, (right, right, down, down)).unfold(2, h, 1).unfold(3, w, 1)
        draw = torch.rand(2, b, generator=generator)
        return windows[torch.arange(b), :, (draw[0] * (2 * down + 1)).long(), (draw[1] * (2 * right + 1)).long()]


@dataclass(frozen=True)
class Affine:
    """Rotation up to ``degrees``, change of size up to ``scale`` and shift up to ``share`` in one bilinear sampling.

    Outside the image is zero: the ground of scans and the usual padding of photographs; nothing is invented.
    """

    share: float
    degrees: float
    scale: float

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        b, _, h, w = images.shape
        draw = torch.rand(4, b, generator=generator).mul_(2).sub_(1)
        inverse_size = 1 / (1 + self.scale * draw[0])
        angle = draw[1] * (self.degrees * pi / 180)
        cos, sin = angle.cos() * inverse_size, angle.sin() * inverse_size
        shift = draw[2:] * (2 * self.share)
        # Rows of the sampling matrices in grid_sample's coordinates (−1…1 on each axis), hence the aspect ratios.
        rows = torch.stack((cos, sin * (-h / w), shift[0], sin * (w / h), cos, shift[1]), 1).view(2 * b, 3)
        # One product for all samples, x and y as planes: ten times faster than a product for each sample.
        grid = (rows @ _centres(h, w)).view(b, 2, h, w).permute(0, 2, 3, 1)
        return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@lru_cache(maxsize=16)
def _centres(h: int, w: int) -> Float[Tensor, "3 n"]:
    """x, y and 1 of every pixel's centre in grid_sample's coordinates."""
    y = (torch.arange(h) + 0.5) * (2 / h) - 1
    x = (torch.arange(w) + 0.5) * (2 / w) - 1
    return torch.stack([x.repeat(h), y.repeat_interleave(w), torch.ones(h * w)])


@dataclass(frozen=True)
class Erase:
    """A rectangle set to the mean (zero once normalised) with this probability.

    Zhong et al. 2020, "Random Erasing Data Augmentation", §3.2: area 2–40 %, aspect ratio 0.3–3.3; here the ratio is
    uniform in its logarithm and a side longer than the image is cut, instead of drawing again.
    """

    probability: float

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        b, _, h, w = images.shape
        chance, area, aspect, y, x = torch.rand(5, b, 1, generator=generator)
        pixels = (0.02 + 0.38 * area) * (h * w)
        ratio = torch.exp(log(0.3) + log(3.3 / 0.3) * aspect)
        height = (pixels * ratio).sqrt().round().clamp(1, h) * (chance < self.probability)
        width = (pixels / ratio).sqrt().round().clamp(1, w)
        rows, columns = torch.arange(h), torch.arange(w)
        top, left = (y * (h - height + 1)).floor(), (x * (w - width + 1)).floor()
        inside_rows = (rows >= top) & (rows < top + height)
        inside_columns = (columns >= left) & (columns < left + width)
        return images.masked_fill(inside_rows[:, None, :, None] & inside_columns[:, None, None, :], 0)


@dataclass(frozen=True)
class Mixup:
    """Pairs mixed with their labels: λ of one and 1 − λ of another, λ ~ Beta(α, α) (Zhang et al. 2018, eq. 1).

    λ is drawn for each sample and the partner from a permutation of the batch.
    """

    alpha: float
    num_classes: int

    def __call__(
        self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], generator: Generator
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b classes"]]:
        partner, share = _partners(len(images), self.alpha, generator)
        targets = F.one_hot(labels, self.num_classes).float()
        mixed = torch.lerp(images[partner], images, share[..., None, None])
        return mixed, torch.lerp(targets[partner], targets, share)


@dataclass(frozen=True)
class CutMix:
    """A box of another image pasted over one, and the labels mixed by the area that shows of each.

    Yun et al. 2019, "CutMix", §3.1: the box has the share 1 − λ of the area and the image's aspect ratio, λ ~
    Beta(α, α), and its centre is anywhere; what lies outside is cut off and λ counted again from the pixels that are
    left. Here λ, box and partner are drawn for each sample.
    """

    alpha: float
    num_classes: int

    def __call__(
        self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], generator: Generator
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b classes"]]:
        b, _, h, w = images.shape
        partner, share = _partners(b, self.alpha, generator)
        side = (1 - share).sqrt() / 2
        y, x = torch.rand(2, b, 1, generator=generator)
        rows, columns = (_between(centre - side, centre + side, length) for centre, length in ((y, h), (x, w)))
        pasted = rows[:, :, None] & columns[:, None, :]
        own = 1 - pasted.float().mean((1, 2))[:, None]
        targets = F.one_hot(labels, self.num_classes).float()
        mixed = torch.where(pasted[:, None], images[partner], images)
        return mixed, torch.lerp(targets[partner], targets, own)


@dataclass(frozen=True)
class EitherMix:
    """One of several ways to mix for each batch, all equally likely."""

    mixes: tuple[Mixup | CutMix, ...]

    def __call__(
        self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], generator: Generator
    ) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b classes"]]:
        chosen = int(torch.randint(len(self.mixes), (), generator=generator))
        return self.mixes[chosen](images, labels, generator)


def _partners(b: int, alpha: float, generator: Generator) -> tuple[Int[Tensor, " b"], Float[Tensor, "b 1"]]:
    """Whom each sample is mixed with, and the share λ ~ Beta(α, α) that it keeps."""
    partner = torch.randperm(b, generator=generator)
    beta = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    return partner, torch.from_numpy(beta.beta(alpha, alpha, b).astype(np.float32))[:, None]


def _between(low: Float[Tensor, "b 1"], high: Float[Tensor, "b 1"], length: int) -> Bool[Tensor, "b n"]:
    """The pixels of a side whose edges, rounded to whole pixels, lie between these shares of it."""
    places = torch.arange(length)
    return (places >= (low * length).round()) & (places < (high * length).round())


def changes(settings: AugmentSettings) -> tuple[tuple[Flip | Shift | Affine, ...], tuple[Erase, ...]]:
    """The changes that these settings switch on: those of raw pixels, and those of normalised ones."""
    raw: list[Flip | Shift | Affine] = []
    if settings.flip:
        raw.append(Flip())
    if settings.rotate or settings.scale:
        raw.append(Affine(settings.shift, settings.rotate, settings.scale))
    elif settings.shift:
        raw.append(Shift(settings.shift))
    return tuple(raw), (Erase(settings.erase),) if settings.erase else ()


def mixing(settings: AugmentSettings, num_classes: int) -> Mixup | CutMix | EitherMix | None:
    """How these settings mix pairs of samples: with both ways switched on, one of the two for each batch."""
    mixes: list[Mixup | CutMix] = [Mixup(settings.mixup, num_classes)] if settings.mixup else []
    mixes += [CutMix(settings.cutmix, num_classes)] if settings.cutmix else []
    return EitherMix(tuple(mixes)) if len(mixes) > 1 else mixes[0] if mixes else None


class Transform:
    """uint8 images and labels in, augmented and normalised inputs and targets out."""

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], num_classes: int, augment: AugmentSettings | None = None
    ):
        self.factor, self.offset = _coefficients(torch.tensor(mean), torch.tensor(std))
        self.raw, self.normalized = changes(augment) if augment else ((), ())
        self.mix = mixing(augment, num_classes) if augment else None

    def __call__(
        self, images: UInt8[Tensor, "b c h w"], labels: Int[Tensor, " b"], generator: Generator
    ) -> tuple[Float[Tensor, "b c h w"], Tensor]:
        changed: Tensor = images
        for change in self.raw:
            changed = change(changed, generator)
        inputs = _scale_and_shift(changed, self.factor, self.offset)
        for change in self.normalized:
            inputs = change(inputs, generator)
        return self.mix(inputs, labels, generator) if self.mix else (inputs, labels)
