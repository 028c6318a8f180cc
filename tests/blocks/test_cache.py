"""Decoding with a cache equals computing everything again, in float64, whatever the pieces."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.biases import ALiBi, Bias, RelativeBuckets
from fieldguide.blocks.cache import Cache, DynamicCache, SlidingCache, StaticCache
from fieldguide.blocks.cores import Linear, Performer
from fieldguide.blocks.masks import Causal, Chunked, Dilated, Documents, Full, Global, Mask, Padding, Prefix, Window
from fieldguide.blocks.positions import Learned, Rotary, positions_of
from fieldguide.errors import FieldguideError

EXACT = {"rtol": 0, "atol": 1e-12}
D, HEADS, LONGEST = 16, 4, 24
CACHES = {"dynamic": DynamicCache, "static": lambda: StaticCache(LONGEST), "sliding": SlidingCache}
LAYERS = {
    "causal": lambda: Attention(D, HEADS, mask=Causal()),
    "windowed": lambda: Attention(D, HEADS, mask=Causal() & Window(4)),
    "grouped": lambda: Attention(D, HEADS, num_kv_heads=2, head_dim=6, qk_norm=nn.LayerNorm, mask=Causal()),
    "rotary": lambda: Attention(D, HEADS, positions=Rotary(4), mask=Causal() & Window(5)),
    "alibi": lambda: Attention(D, HEADS, bias=ALiBi(HEADS), mask=Causal() & Window(6)),
    "buckets": lambda: Attention(D, HEADS, bias=RelativeBuckets(HEADS, two_sided=False), mask=Causal(), scale=1.0),
    "dilated": lambda: Attention(D, HEADS, mask=Causal() & Window(9) & Dilated(2)),
    "chunked": lambda: Attention(D, HEADS, mask=Causal() & Chunked(5)),
    "global": lambda: Attention(D, HEADS, mask=Causal() & (Window(3) | Global([0, 2]))),
    "linear": lambda: Attention(D, HEADS, core=Linear(), mask=Causal()),
    "performer": lambda: Attention(D, HEADS, core=Performer(12), mask=Causal()),
}  # fmt: skip


class Stack(nn.Module):
    """Two layers of the same kind and a global one, which a cache must keep apart."""

    def __init__(self, kind: str):
        super().__init__()
        self.positions = Learned(LONGEST, D)
        self.layers = nn.ModuleList([LAYERS[kind](), LAYERS[kind](), LAYERS["causal"]()])

    def forward(self, x: torch.Tensor, keep: torch.Tensor | None = None, cache: Cache | None = None) -> torch.Tensor:
        x = x + self.positions(positions_of(x, keep, cache))
        for layer in self.layers:
            x = x + layer(x, mask=Full() if keep is None else Padding(keep), cache=cache)
        return x


@torch.no_grad()
def decode(model: nn.Module, x: torch.Tensor, pieces: list[int], cache: Cache, keep: torch.Tensor | None = None):
    outputs, end = [], 0
    for piece in x.split(pieces, 1):
        end += piece.shape[1]
        outputs.append(model(piece, None if keep is None else keep[:, :end], cache=cache))
    return torch.cat(outputs, 1)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("padded", [False, True])
def test_decoding_equals_full_recomputation(kind: str, cache: str, padded: bool):
    torch.manual_seed(0)
    model, x = Stack(kind).double().eval(), torch.randn(2, LONGEST, D, dtype=torch.float64)
    keep = None
    if padded:
        keep = torch.ones(2, LONGEST, dtype=torch.bool)
        keep[0, :3] = False
    pieces = [7, 1, 1, 1, 4, 1, 1, 8]
    kept = CACHES[cache]()
    torch.testing.assert_close(decode(model, x, pieces, kept, keep), model(x, keep), **EXACT)
    assert kept.length == LONGEST


@given(st.data())
def test_any_split_into_pieces_gives_the_same(data: st.DataObject):
    kind, cache = data.draw(st.sampled_from(sorted(LAYERS))), data.draw(st.sampled_from(sorted(CACHES)))
    pieces = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=6).filter(lambda p: sum(p) <= LONGEST))
    torch.manual_seed(0)
    model, x = Stack(kind).double().eval(), torch.randn(1, sum(pieces), D, dtype=torch.float64)
    torch.testing.assert_close(decode(model, x, pieces, CACHES[cache]()), model(x), **EXACT)


def test_a_wrong_cache_would_be_noticed():
    """The comparison above is sensitive: forgetting one token, or misplacing positions, moves the output."""
    torch.manual_seed(0)
    model, x = Stack("rotary").double().eval(), torch.randn(1, 9, D, dtype=torch.float64)
    cache = DynamicCache()
    decode(model, x[:, 1:8], [7], cache)
    assert (model(x[:, 8:], cache=cache) - model(x)[:, 8:]).abs().max() > 1e-3


def test_the_sliding_cache_keeps_the_window_and_no_more():
    torch.manual_seed(0)
    model, cache = Stack("windowed").double().eval(), SlidingCache()
    decode(model, torch.randn(2, LONGEST, D, dtype=torch.float64), [10] + [1] * 14, cache)
    kept = [cache._kept[layer].keys for layer in model.layers]
    assert [keys.shape[2] for keys in kept] == [3, 3, LONGEST]  # Window(4) reaches three tokens back
    assert kept[0].untyped_storage().nbytes() == kept[0].numel() * 8  # and holds no larger memory alive
    assert [cache.seen(layer) for layer in model.layers] == [LONGEST] * 3


class Absolute(Bias):
    num_heads, relative = 1, False

    def score(self, b, h, q, k):
        return (k == 3).double() + 0 * (b + h + q)


@pytest.mark.parametrize(
    ("mask", "bias", "expected"),
    [
        (Causal(), None, math.inf),
        (Full(), None, math.inf),
        (Causal() & Window(8), None, 7),
        (Window(8), ALiBi(4), 7),
        (Window(8) | Window(3), None, 7),
        (Window(8) | Prefix(2), None, math.inf),
        (Window(8), Absolute(), math.inf),
        (Window(1), None, 0),
    ],
    ids=str,
)
def test_reach_is_how_far_back_keys_matter(mask: Mask, bias: Bias | None, expected: float):
    layer = Attention(D, HEADS, mask=mask, bias=bias)
    assert layer.reach() == expected
    if expected < math.inf:
        seen = mask.dense(40)[0, 0].nonzero()
        assert (seen[:, 0] - seen[:, 1]).max() == expected


def test_a_bias_that_counts_positions_keeps_the_sliding_cache_whole():
    torch.manual_seed(0)
    layer = Attention(D, HEADS, mask=Causal() & Window(6), bias=Absolute()).double().eval()
    x, cache = torch.randn(1, 12, D, dtype=torch.float64), SlidingCache()
    with torch.no_grad():
        y = torch.cat([layer(piece, cache=cache) for piece in x.split(3, 1)], 1)
    torch.testing.assert_close(y, layer(x), **EXACT)


def test_documents_are_told_apart_while_decoding():
    torch.manual_seed(0)
    layer, x = (
        Attention(D, HEADS, mask=Causal() & Window(6)).double().eval(),
        torch.randn(1, 12, D, dtype=torch.float64),
    )
    ids, cache = torch.tensor([[0] * 5 + [1] * 7]), SlidingCache()
    with torch.no_grad():
        pieces = [layer(x[:, i : i + 3], mask=Documents(ids[:, : i + 3]), cache=cache) for i in range(0, 12, 3)]
        torch.testing.assert_close(torch.cat(pieces, 1), layer(x, mask=Documents(ids)), **EXACT)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("indices", [[1, 1, 0], [2, 0, 1], [0, 0, 1, 1, 2, 2]], ids=str)
def test_reordered_rows_go_on_from_what_the_chosen_rows_saw(cache: str, indices: list[int]):
    torch.manual_seed(0)
    model, kept = Stack("windowed").double().eval(), CACHES[cache]()
    x, chosen = torch.randn(3, 10, D, dtype=torch.float64), torch.tensor(indices)
    decode(model, x, [9, 1], kept)
    kept.reorder(chosen)
    after = torch.randn(len(indices), 5, D, dtype=torch.float64)
    expected = model(torch.cat((x[chosen], after), 1))[:, 10:]
    torch.testing.assert_close(decode(model, after, [1, 3, 1], kept), expected, **EXACT)


def test_the_static_cache_writes_in_place_and_says_when_it_is_full():
    layer, cache = Attention(D, HEADS, mask=Causal()).eval(), StaticCache(4)
    with torch.no_grad():
        layer(torch.randn(1, 3, D), cache=cache)
        place = cache._rooms[layer].keys.data_ptr()
        layer(torch.randn(1, 1, D), cache=cache)
        assert cache._rooms[layer].keys.data_ptr() == place
        with pytest.raises(FieldguideError, match=r"StaticCache: no room for token 5.*max_len=4"):
            layer(torch.randn(1, 1, D), cache=cache)
        assert cache.length == 4


def test_another_batch_needs_another_cache():
    layer, cache = Attention(D, HEADS, mask=Causal()).eval(), DynamicCache()
    layer(torch.randn(2, 3, D), cache=cache)
    with pytest.raises(FieldguideError, match=r"holds a batch of 2 sequences, got 3; start a new cache"):
        layer(torch.randn(3, 1, D), cache=cache)


@pytest.mark.parametrize("cache", CACHES)
def test_keys_of_a_memory_are_computed_once_and_never_confused(cache: str):
    torch.manual_seed(0)
    layer, kept = Attention(D, HEADS, memory_dim=10).double().eval(), CACHES[cache]()
    calls = []
    layer.key.register_forward_hook(lambda *_: calls.append(1))
    x, first, second = (torch.randn(2, n, d, dtype=torch.float64) for n, d in ((6, D), (7, 10), (5, 10)))
    keep = Padding(torch.rand(2, 7) > 0.3)
    with torch.no_grad():
        for token in x.split(1, 1):
            torch.testing.assert_close(
                layer(token, first, mask=keep, cache=kept), layer(token, first, mask=keep), **EXACT
            )
        assert len(calls) == 6 + 1
        torch.testing.assert_close(layer(x, second, cache=kept), layer(x, second), **EXACT)
    assert kept.length == 0  # a memory moves no position


def test_gradients_flow_through_the_dynamic_cache():
    torch.manual_seed(0)
    layer, x, gradients = Attention(D, HEADS, mask=Causal()).double(), torch.randn(1, 6, D, dtype=torch.float64), []
    for pieces in ([6], [2, 1, 3]):
        leaf, cache = x.clone().requires_grad_(), DynamicCache()
        y = torch.cat([layer(piece, cache=cache) for piece in leaf.split(pieces, 1)], 1)
        gradients.append(torch.autograd.grad(y.square().sum(), leaf)[0])
    torch.testing.assert_close(*gradients, **EXACT)
