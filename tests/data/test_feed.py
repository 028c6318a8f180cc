"""Order and augmentation depend on (seed, epoch, position) and nothing else."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.data import Feed, ImageData, Split
from fieldguide.data.feed import stream
from fieldguide.data.pixels import InMemory, Resized
from fieldguide.errors import FieldguideError
from fieldguide.train.recipe import AugmentRecipe

AUGMENTS = {
    "none": None,
    "off": AugmentRecipe(),
    "shift": AugmentRecipe(shift=0.2),
    "affine": AugmentRecipe(shift=0.1, rotate=20.0, scale=0.2),
    "flip": AugmentRecipe(flip=True),
    "erase": AugmentRecipe(erase=0.5),
    "mixup": AugmentRecipe(mixup=0.3),
    "all": AugmentRecipe(shift=0.1, rotate=20.0, scale=0.2, flip=True, erase=0.5, mixup=0.3),
}
RAW = {"mean": (0.0,), "std": (1 / 255,)}
"""Normalisation that leaves 0–255 as it is."""


def split_of(count: int) -> Split:
    """Each image's first pixel is its number, so it can be recognised."""
    images = torch.randint(0, 256, (count, 1, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    images[:, 0, 0, 0] = torch.arange(count)
    labels = torch.arange(count) % 3
    return Split(InMemory(images), labels, [str(i) for i in range(count)], ("a", "b", "c"))


def equal(one: list, other: list) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 5), st.booleans())
def test_every_sample_comes_once_an_epoch(count: int, batch: int, epoch: int, shuffle: bool) -> None:
    batch = min(batch, count)
    feed = Feed(split_of(count), batch, seed=3, shuffle=shuffle, **RAW)
    batches = list(feed.batches(epoch))
    seen = torch.cat([inputs[:, 0, 0, 0] for inputs, _ in batches]).round().long()
    assert seen.sort().values.tolist() == list(range(count))
    assert torch.equal(torch.cat([targets for _, targets in batches]), seen % 3)
    assert len(batches) == len(feed)
    assert all(len(inputs) == batch for inputs, _ in batches[:-1])
    assert shuffle or seen.tolist() == list(range(count))


@pytest.mark.parametrize("augment", AUGMENTS.values(), ids=AUGMENTS)
def test_resuming_anywhere_gives_the_tail(augment: AugmentRecipe | None) -> None:
    whole = list(Feed(split_of(23), 4, seed=5, augment=augment, **RAW).batches(2))
    for start in range(len(whole) + 1):
        again = Feed(split_of(23), 4, seed=5, augment=augment, **RAW)
        list(again.batches(1))  # what came before leaves no trace
        torch.rand(5)
        assert equal(list(again.batches(2, start)), whole[start:])


@pytest.mark.parametrize("augment", AUGMENTS.values(), ids=AUGMENTS)
def test_global_generators_are_not_touched(augment: AugmentRecipe | None) -> None:
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    list(Feed(split_of(20), 8, seed=0, augment=augment, **RAW).batches(0))
    assert torch.equal(states[0], torch.random.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1])


@pytest.mark.parametrize("augment", AUGMENTS.values(), ids=AUGMENTS)
def test_inputs_are_float_images_in_range(augment: AugmentRecipe | None) -> None:
    split = split_of(20)
    before = split.pixels.read(torch.arange(20)).clone()
    for inputs, targets in Feed(split, 8, seed=0, augment=augment, **RAW).batches(0):
        assert inputs.dtype == torch.float32
        assert inputs.shape[1:] == (1, 6, 5)
        assert 0 <= inputs.min() <= inputs.max() <= 255.001
        assert targets.dtype == (torch.float32 if augment and augment.mixup else torch.int64)
    assert torch.equal(before, split.pixels.read(torch.arange(20))), "the data set itself was changed"


def test_epochs_seeds_and_batches_differ() -> None:
    augment = AugmentRecipe(shift=0.3)

    def first(seed: int, epoch: int) -> torch.Tensor:
        return next(Feed(split_of(50), 50, seed=seed, augment=augment, **RAW).batches(epoch))[0]

    assert not torch.equal(first(0, 0), first(0, 1))
    assert not torch.equal(first(0, 0), first(1, 0))
    places = [(s, e, i) for s in range(4) for e in range(4) for i in range(4)] + [
        (s, e) for s in range(4) for e in range(4)
    ]
    assert len({tuple(torch.rand(4, generator=stream(*place)).tolist()) for place in places}) == len(places)


def test_batches_of_an_epoch_are_changed_differently() -> None:
    same = Split(
        InMemory(split_of(1).pixels.read(torch.zeros(40, dtype=torch.long))),
        torch.zeros(40).long(),
        "x" * 40,
        ("a", "b"),
    )
    batches = [inputs for inputs, _ in Feed(same, 10, seed=0, augment=AugmentRecipe(shift=0.3), **RAW).batches(0)]
    assert all(not torch.equal(one, other) for one, other in pairwise(batches))


def test_order_is_uniform() -> None:
    """Every sample is first equally often: χ² over 2,000 epochs of 5 samples, 4 degrees of freedom, p ≈ 0.001."""
    feed = Feed(split_of(5), 1, seed=0, **RAW)
    first = torch.stack([feed._order(epoch)[0] for epoch in range(2000)])
    observed = torch.bincount(first, minlength=5).double()
    assert ((observed - 400).square() / 400).sum() < 18.5


def test_reading_ahead_changes_nothing() -> None:
    images = torch.randint(0, 256, (11, 1, 4, 4), dtype=torch.uint8)
    labels, names = torch.arange(11) % 2, [str(i) for i in range(11)]
    eager = ImageData.from_arrays(images, labels, image_size=7, val=(images, labels), test=(images, labels)).train
    lazy = Split(Resized(images, (7, 7)), labels, names, ("0", "1"))
    augment = AUGMENTS["all"]
    for start in range(5):
        one, other = (list(Feed(s, 3, seed=1, augment=augment, **RAW).batches(0, start)) for s in (eager, lazy))
        assert equal(one, other)
    unfinished = Feed(lazy, 3, seed=1, **RAW).batches(0)
    next(unfinished)
    unfinished.close()


def test_reading_ahead_is_bounded() -> None:
    read: list[int] = []

    class Counted(Resized):
        def read(self, indices: torch.Tensor) -> torch.Tensor:
            read.append(len(indices))
            return super().read(indices)

    split = Split(
        Counted(split_of(40).pixels.read(torch.arange(40)), (6, 5)), torch.zeros(40).long(), "x" * 40, ("a", "b")
    )
    batches = Feed(split, 2, seed=0, **RAW).batches(0)
    next(batches)
    batches.close()  # waits for what was begun
    assert len(read) == 3


def test_a_batch_larger_than_the_training_part_is_refused() -> None:
    with pytest.raises(
        FieldguideError, match=r"batch_size 6 is larger than the training part \(5 samples\).* at most 5"
    ):
        Feed(split_of(5), 6, seed=0, **RAW)
    (batch,) = Feed(split_of(5), 6, seed=0, shuffle=False, **RAW).batches(0)
    assert len(batch[0]) == 5
    with pytest.raises(FieldguideError, match="batch_size is 0"):
        Feed(split_of(5), 0, seed=0, **RAW)
