"""Masks are values: their algebra, their meaning pair by pair, and what they refuse."""

import inspect
import pickle
from copy import deepcopy

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldguide.blocks.masks import (
    And,
    Causal,
    Chunked,
    Dilated,
    Documents,
    Full,
    Global,
    Mask,
    Not,
    Or,
    Padding,
    Prefix,
    Strided,
    Window,
)
from fieldguide.errors import FieldguideError

# beartype samples what it checks; hypothesis sees the random numbers it draws
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

N = 12
SIZES = st.integers(1, 9)
STRUCTURE = st.one_of(
    st.just(Full()),
    st.just(Causal()),
    *(st.builds(mask, SIZES) for mask in (Window, Strided, Dilated, Chunked, Prefix)),
    st.builds(Global, st.lists(st.integers(0, N + 3), min_size=1, max_size=4)),
)
BITS = st.lists(st.lists(st.booleans(), min_size=N, max_size=N), min_size=2, max_size=2)
HELD = st.one_of(
    st.builds(lambda bits: Padding(torch.tensor(bits)), BITS),
    st.builds(lambda bits: Documents(torch.tensor(bits).long().cumsum(1)), BITS),
)


def joined(leaves):
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(lambda a, b: a & b, inner, inner),
            st.builds(lambda a, b: a | b, inner, inner),
            inner.map(lambda m: ~m),
        ),
        max_leaves=5,
    )


MASKS = joined(st.one_of(STRUCTURE, HELD))


def allowed(mask: Mask, row: int, q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The definitions once more, in numpy and without any of the library's code."""
    match mask:
        case Full():
            return np.ones(np.broadcast_shapes(q.shape, k.shape), bool)
        case Causal():
            return k <= q
        case Window(size):
            return np.abs(q - k) < size
        case Strided(stride):
            return (np.abs(q - k) < stride) | (np.mod(q - k, stride) == 0)
        case Dilated(step):
            return np.mod(q - k, step) == 0
        case Chunked(size):
            return np.floor_divide(q, size) == np.floor_divide(k, size)
        case Prefix(length):
            return np.broadcast_to(k < length, np.broadcast_shapes(q.shape, k.shape))
        case Global(positions):
            return np.isin(q, positions) | np.isin(k, positions)
        case Documents(ids):
            return ids.numpy()[row][q] == ids.numpy()[row][k]
        case Padding(keep):
            return np.broadcast_to(keep.numpy()[row][k], np.broadcast_shapes(q.shape, k.shape))
        case And(terms):
            return np.logical_and.reduce([allowed(term, row, q, k) for term in terms])
        case Or(terms):
            return np.logical_or.reduce([allowed(term, row, q, k) for term in terms])
        case Not(inner):
            return ~allowed(inner, row, q, k)
    raise AssertionError(mask)


def table(mask: Mask, q_len: int, k_len: int) -> np.ndarray:
    q, k = np.arange(k_len - q_len, k_len)[:, None], np.arange(k_len)[None]
    return np.stack([allowed(mask, row, q, k) for row in range(mask.extent[0])])[:, None]


@settings(max_examples=300)
@given(MASKS, st.integers(1, N))
def test_dense_is_the_definition_for_the_last_queries(mask, q_len):
    np.testing.assert_array_equal(mask.dense(q_len, N).numpy(), table(mask, q_len, N))


@given(joined(STRUCTURE), st.integers(N + 1, 2 * N))
def test_more_queries_than_keys(mask, q_len):
    np.testing.assert_array_equal(mask.dense(q_len, N).numpy(), table(mask, q_len, N))


@settings(max_examples=200)
@given(MASKS, MASKS)
def test_the_operators_mean_what_they_say(a, b):
    x, y = a.dense(N), b.dense(N)
    assert ((a & b).dense(N) == (x & y)).all()
    assert ((a | b).dense(N) == (x | y)).all()
    assert ((~a).dense(N) == ~x).all()


@settings(max_examples=200)
@given(MASKS, MASKS)
def test_de_morgan(a, b):
    assert ((~(a & b)).dense(N) == (~a | ~b).dense(N)).all()
    assert ((~(a | b)).dense(N) == (~a & ~b).dense(N)).all()


@given(MASKS, MASKS, MASKS)
def test_equality_ignores_order_and_grouping(a, b, c):
    assert a & b == b & a
    assert hash(a & b) == hash(b & a)
    assert (a | b) | c == a | (b | c)
    assert a & a == a == a | a == ~~a
    assert a & Full() == a == Full() & a
    assert a | Full() == Full()
    assert a & ~Full() == ~Full()
    assert a | ~Full() == a


def test_different_masks_are_different():
    masks = [Full(), Causal(), Window(2), Window(3), Strided(2), Dilated(2), Chunked(2), Prefix(2), Global([2])]
    masks += [Causal() & Window(2), Causal() | Window(2), ~Causal()]
    assert len(set(masks)) == len(masks)
    assert Causal() != "Causal()"


def test_data_masks_are_equal_by_content():
    keep = torch.tensor([[True, False]])
    assert Padding(keep) == Padding(keep.clone())
    assert hash(Padding(keep)) == hash(Padding(keep.clone()))
    assert Padding(keep) != Padding(~keep)
    assert Padding(keep) != Documents(keep.long())
    assert len({Causal() & Padding(keep), Padding(keep.clone()) & Causal(), Causal() & Padding(~keep)}) == 2


def test_repr_is_the_expression():
    assert repr(Causal() & Window(64) | ~Global([3, 0])) == "Causal() & Window(64) | ~Global([0, 3])"
    assert repr((Causal() | Prefix(4)) & Chunked(8)) == "(Causal() | Prefix(4)) & Chunked(8)"
    assert repr(~(Causal() & Window(2))) == "~(Causal() & Window(2))"
    assert repr(Global(range(100))) == "Global(range(0, 100))"
    assert repr(Padding(torch.ones(2, 3, dtype=torch.bool))) == "Padding(<2×3 bool>)"


def test_masks_are_frozen_and_copy():
    mask = Causal() & Window(3)
    with pytest.raises(AttributeError):
        mask.terms[1].size = 4
    assert deepcopy(mask) == mask == pickle.loads(pickle.dumps(mask))  # noqa: S301  (as a data loader's worker does)


@given(MASKS, st.integers(1, N))
def test_mask_mod_is_dense_pair_by_pair(mask, q_len):
    mod, dense = mask.mask_mod(q_len, N), mask.dense(q_len, N)
    assert len(inspect.signature(mod).parameters) == 4  # how FlexAttention tells it from a score_mod
    for b, q, k in [(0, 0, 0), (dense.shape[0] - 1, q_len - 1, N - 1), (0, q_len // 2, N // 3)]:
        assert bool(mod(*(torch.tensor(i) for i in (b, 0, q, k)))) == bool(dense[b, 0, q, k])


@given(MASKS)
def test_density_counts_every_pair(mask):
    assert mask.density(N) == pytest.approx(mask.dense(N).double().mean().item())


def test_density_of_a_long_sequence_is_close():
    n, w = 20_000, 256
    exact = (w * n - w * (w - 1) / 2) / n**2
    assert (Causal() & Window(w)).density(n) == pytest.approx(exact, rel=0.02)


@settings(max_examples=300)
@given(MASKS)
def test_the_cover_holds_every_visible_pair(mask):
    regions = mask.cover()
    covered = torch.zeros(N, N, dtype=torch.bool)
    for region in regions:
        covered |= region.dense(N)[0, 0]
    assert (mask.dense(N) <= covered).all()


@pytest.mark.parametrize(
    ("mask", "cover"),
    [
        (Causal() & Window(4), "(Band(0, 3, 1),)"),
        (~Causal() & Window(4), "(Band(-3, -1, 1),)"),
        (~(~Window(4) | ~Causal()), "(Band(0, 3, 1),)"),
        (Window(4) & Dilated(2) & Dilated(3), "(Band(-3, 3, 6),)"),
        (Causal() & Strided(4), "(Band(0, 3, 1), Band(0, inf, 4))"),
        (Causal() & (Window(4) | Prefix(2)), "(Band(0, 3, 1), Keys(((0, 2),)))"),
        (Window(4) | Window(2), "(Band(-3, 3, 1),)"),
        (Causal() | ~Causal(), "(Band(-inf, inf, 1),)"),
        (~Full(), "()"),
    ],
)
def test_the_cover_is_narrow(mask, cover):
    assert repr(mask.cover()) == cover


@pytest.fixture
def unchecked():
    """The test runner's shape checks off: what is refused here is what users meet, who have none."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Window(0), "Window: size is a positive whole number, not 0"),
        (lambda: Window(True), "not True"),
        (lambda: Chunked(2.0), "not 2.0"),
        (lambda: Global([]), "at least one"),
        (lambda: Global([-1]), "from 0 on"),
        (lambda: Padding(torch.ones(2, 3)), "Boolean (b, n), not a float32 tensor of shape (2, 3)"),
        (lambda: Padding(torch.ones(3, dtype=torch.bool)), "not a bool tensor of shape (3,)"),
        (lambda: Documents(torch.zeros(2, 3)), "whole numbers (b, n), not a float32 tensor"),
        (lambda: Causal() & torch.zeros(3, 3), "mask says who may see whom"),
        (lambda: Causal() | 3, "mask says who may see whom"),
        (lambda: Padding(torch.ones(2, 3, dtype=torch.bool)).dense(4), "does not fit a batch of 2 with 4 keys"),
        (lambda: Documents(torch.zeros(1, 3).long()).dense(4, 3), "no ids for the first 1 of 4 queries"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_refusals_are_one_clear_line(make, message):
    with pytest.raises(FieldguideError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
