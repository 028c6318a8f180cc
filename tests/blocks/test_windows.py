"""Windows of a map against pairs of pixels looked at one by one: who sees whom, and what comes out."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.blocks.windows import ChannelsLast, PatchMerging, WindowAttention

EXACT = {"rtol": 0, "atol": 1e-10}


def windows(size: int, shift: int, heads: int = 2) -> WindowAttention:
    torch.manual_seed(0)
    module = WindowAttention(6, heads, size, shift).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def window_of(place: int, length: int, size: int, shift: int) -> int:
    """The paper's windows along one side (fig. 2): moved by ``shift``, so those at the ends are smaller."""
    filled = -(-length // size) * size
    return (place - shift) // size if filled > size else 0


def together(one, other, height: int, width: int, size: int, shift: int) -> bool:
    return all(
        window_of(a, length, size, shift) == window_of(b, length, size, shift)
        for a, b, length in zip(one, other, (height, width), strict=True)
    )


def pair_by_pair(module: WindowAttention, x: torch.Tensor) -> torch.Tensor:
    """Softmax attention of each pixel over the pixels of its window, zeros beyond the map among them."""
    size, shift, attention = module.size, module.shift, module.attention
    height, width = x.shape[1:3]
    rows, columns = (-(-length // size) * size for length in (height, width))
    filled = x.new_zeros(len(x), rows, columns, x.shape[3])
    filled[:, :height, :width] = x
    heads = attention.num_heads
    q, k, v = (p(filled).unflatten(-1, (heads, -1)) for p in (attention.query, attention.key, attention.value))
    out = torch.zeros_like(q)
    places = [(i, j) for i in range(rows) for j in range(columns)]
    for i, j in places:
        seen = [p for p in places if together((i, j), p, height, width, size, shift)]
        keys, values = (torch.stack([t[:, a, b] for a, b in seen], 1) for t in (k, v))  # b s h c
        scores = torch.einsum("bhc,bshc->bsh", q[:, i, j], keys) / q.shape[-1] ** 0.5
        offsets = [(i - a + size - 1) * (2 * size - 1) + j - b + size - 1 for a, b in seen]
        weights = (scores + attention.bias.table[offsets]).softmax(1)
        out[:, i, j] = torch.einsum("bsh,bshc->bhc", weights, values)
    return attention.output(out.flatten(3))[:, :height, :width]


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize(("height", "width"), [(6, 9), (6, 6), (7, 4), (3, 8), (3, 3), (2, 1)])
def test_equals_attention_pair_by_pair(height: int, width: int, shift: int):
    module, x = windows(3, shift), torch.randn(2, height, width, 6, dtype=torch.float64)
    torch.testing.assert_close(module(x), pair_by_pair(module, x), **EXACT)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(2, 4), st.integers(0, 100), st.data())
def test_nothing_leaks_between_pixels_that_are_not_in_one_window(height, width, size, seed, data):
    """The roll brings both ends of the map together; the gradient shows that they do not feel each other."""
    module = windows(size, size // 2)
    torch.manual_seed(seed)
    x = torch.randn(1, height, width, 6, dtype=torch.float64, requires_grad=True)
    i, j = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    (gradient,) = torch.autograd.grad(module(x)[0, i, j].square().sum(), x)
    felt = gradient[0].abs().amax(-1) > 0
    for a in range(height):
        for b in range(width):
            assert felt[a, b] == together((i, j), (a, b), height, width, size, size // 2), (i, j, a, b)


def test_shifted_and_plain_windows_together_reach_the_neighbours():
    plain, shifted = windows(4, 0), windows(4, 2)
    x = torch.randn(1, 8, 8, 6, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(shifted(plain(x))[0, 3, 3].sum(), x)
    assert (gradient[0].abs().amax(-1) > 0).all(), "the middle window of the second layer touches all four of the first"


def test_batches_do_not_mix():
    module, x = windows(4, 2), torch.randn(3, 8, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(module(x), torch.cat([module(one) for one in x.split(1)]), **EXACT)


def test_merging_takes_two_by_two_column_by_column():
    merging = PatchMerging(3).double()
    x = torch.randn(2, 4, 6, 3, dtype=torch.float64)
    parts = [x[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
    expected = merging.reduction(merging.norm(torch.cat(parts, -1)))
    torch.testing.assert_close(merging(x), expected, **EXACT)
    odd = torch.nn.functional.pad(x[:, :3, :5], (0, 0, 0, 1, 0, 1))
    torch.testing.assert_close(merging(x[:, :3, :5]), merging(odd), **EXACT)
    assert merging.reduction.bias is None


def test_channels_last_is_the_same_layers_on_the_other_axis():
    layers = ChannelsLast(torch.nn.LayerNorm(5), torch.nn.Linear(5, 7))
    x = torch.randn(2, 5, 3, 4)
    expected = layers[1](layers[0](x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    torch.testing.assert_close(layers(x), expected)
