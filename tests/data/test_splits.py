"""Parts that never overlap, hold every class, and do not depend on the training seed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.data import open_images
from fieldguide.data.splits import stratified
from fieldguide.errors import FieldguideError

counts = st.lists(st.integers(2, 40), min_size=1, max_size=6)
shares = st.floats(0.01, 0.99)


def labels_of(counts: list[int], seed: int) -> torch.Tensor:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


@given(counts, shares, st.integers(0, 1000))
def test_parts_are_disjoint_and_cover_all(counts: list[int], share: float, seed: int) -> None:
    rest, held = stratified(labels_of(counts, seed), share, [str(i) for i in range(len(counts))], seed)
    assert sorted([*rest.tolist(), *held.tolist()]) == list(range(sum(counts)))


@given(counts, shares, st.integers(0, 1000))
def test_every_class_is_on_both_sides_in_proportion(counts: list[int], share: float, seed: int) -> None:
    labels = labels_of(counts, seed)
    _, held = stratified(labels, share, [str(i) for i in range(len(counts))], seed)
    for count, taken in zip(counts, torch.bincount(labels[held], minlength=len(counts)).tolist(), strict=True):
        assert 1 <= taken <= count - 1
        assert abs(taken - min(max(share * count, 1), count - 1)) < 1


@given(counts, shares, st.integers(0, 1000))
def test_the_same_labels_are_split_the_same_way(counts: list[int], share: float, seed: int) -> None:
    labels, names = labels_of(counts, seed), [str(i) for i in range(len(counts))]
    before = torch.random.get_rng_state()
    first = stratified(labels, share, names, 0)
    torch.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(first, stratified(labels, share, names, 0), strict=True))
    torch.random.set_rng_state(before)


def test_another_seed_splits_otherwise() -> None:
    labels = labels_of([30, 30], 0)
    assert not torch.equal(stratified(labels, 0.2, "ab", 0)[1], stratified(labels, 0.2, "ab", 1)[1])


def test_the_share_is_exact_where_classes_allow_it() -> None:
    labels = labels_of([178, 182, 177, 183, 181, 182, 181, 179, 174, 180], 0)
    assert len(stratified(labels, 0.2, [str(i) for i in range(10)], 0)[1]) == round(0.2 * 1797)


@pytest.mark.parametrize("few", [0, 1])
def test_a_class_too_small_to_split_is_named(few: int) -> None:
    labels = torch.tensor([0] * 5 + [1] * few)
    with pytest.raises(FieldguideError, match=f"class 'rare' has {few} sample.* at least 3"):
        stratified(labels, 0.2, ("common", "rare"), 0)


def test_digits_are_divided_for_good() -> None:
    """The held-out scans of this version: a change here makes published figures incomparable."""
    data = open_images("digits")
    assert (len(data.train), len(data.val), len(data.test)) == (1294, 144, 359)
    assert data.test.names[:4] == ["train 10", "train 14", "train 21", "train 22"]
    names = [set(part.names) for part in (data.train, data.val, data.test)]
    assert len(set.union(*names)) == 1797 == sum(map(len, names))
