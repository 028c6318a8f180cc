"""Samples of one part of a data set, and how a part is split off another."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fieldguide.data.pixels import Pixels
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Int, Tensor, UInt8

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
VALIDATION_LIMIT = 5_000


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels and names: the training, validation or test part of a data set."""

    pixels: Pixels
    labels: Int[Tensor, " n"]
    names: Sequence[str]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Int[Tensor, " b"]) -> tuple[UInt8[Tensor, "b c h w"], Int[Tensor, " b"]]:
        """The uint8 images and int64 labels at these positions."""
        return self.pixels.read(indices), self.labels.index_select(0, indices)

    def subset(self, indices: Int[Tensor, " b"]) -> "Split":
        order: list[int] = indices.tolist()
        names = [self.names[i] for i in order]
        return Split(self.pixels.take(indices), self.labels[indices], names, self.classes)

    def hold_out(self, share: float, seed: int) -> tuple["Split", "Split"]:
        """(rest, held): two disjoint parts, stratified by class."""
        rest, held = stratified(self.labels, share, self.classes, seed)
        return self.subset(rest), self.subset(held)


def stratified(
    labels: Int[Tensor, " n"], share: float, classes: Sequence[str], seed: int
) -> tuple[Int[Tensor, " rest"], Int[Tensor, " held"]]:
    """Sorted indices (rest, held) with ``share`` of each class held out, at least one sample on either side.

    Sizes follow the largest-remainder rule, so ``held`` has ``round(share · n)`` samples wherever the classes allow it.
    The choice depends on ``labels``, ``share`` and ``seed`` only. A class with fewer than two samples is an error.
    """
    counts = torch.bincount(labels, minlength=len(classes))
    for name, count in zip(classes, counts.tolist(), strict=True):
        if count < 2:
            raise FieldguideError(
                f"class {name!r} has {count} sample{'' if count == 1 else 's'} left to split; each needs at least "
                "3 (training, validation, test): add samples, remove the class, or give train, val and test yourself"
            )
    quota = counts.double() * share
    held_per_class = quota.floor().long()
    missing = round(share * len(labels)) - int(held_per_class.sum())
    if missing > 0:
        held_per_class[(quota - held_per_class).argsort(descending=True, stable=True)[:missing]] += 1
    held_per_class = held_per_class.clamp_min(1).minimum(counts - 1)

    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    rank = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[labels[by_class]]
    is_held = rank < held_per_class[labels[by_class]]
    return by_class[~is_held].sort().values, by_class[is_held].sort().values
