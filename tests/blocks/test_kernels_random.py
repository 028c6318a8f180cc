"""Random mask expressions in every kernel that can do them, against softmax attention written out in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.blocks.test_attend import TOLERANCE, agree, tensors
from tests.blocks.test_masks import joined

from fieldguide.blocks.attend import attend
from fieldguide.blocks.kernels import Case
from fieldguide.blocks.kernels.banded import banded
from fieldguide.blocks.kernels.chunked import chunked
from fieldguide.blocks.kernels.dense import dense
from fieldguide.blocks.kernels.hubs import hubs
from fieldguide.blocks.kernels.sdpa import sdpa
from fieldguide.blocks.kernels.stepwise import stepwise
from fieldguide.blocks.kernels.strided import strided
from fieldguide.blocks.kernels.tiled import Tiled
from fieldguide.blocks.masks import (
    Causal,
    Chunked,
    Dilated,
    Documents,
    Full,
    Global,
    Padding,
    Prefix,
    Strided,
    Window,
)

# beartype samples what it checks; hypothesis sees the random numbers it draws
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

KERNELS = (sdpa, chunked, banded, strided, hubs, dense)
MOST = 230  # keys: beyond the 64 rows of a block, so that whole, first and last blocks all occur


def masks(n: int):
    """Random expressions over sizes that matter at n keys, structural and with data for a batch of two."""
    size = st.one_of(st.integers(1, 9), st.integers(1, n))
    leaves = [st.just(Full()), st.just(Causal())]
    leaves += [st.builds(mask, size) for mask in (Window, Strided, Dilated, Chunked, Prefix)]
    leaves += [st.builds(Global, st.lists(st.integers(0, n), min_size=1, max_size=3))]
    seeds = st.integers(0, 2**20)
    leaves += [seeds.map(lambda s: Padding(torch.rand(2, n, generator=torch.Generator().manual_seed(s)) > 0.3))]
    leaves += [
        seeds.map(
            lambda s: Documents((torch.rand(2, n, generator=torch.Generator().manual_seed(s)) > 0.9).long().cumsum(1))
        )
    ]
    bounded = st.builds(lambda w, m: Window(w) & m, st.integers(1, 40), joined(st.one_of(leaves)))
    causal = joined(st.one_of(leaves)).map(lambda m: Causal() & m)
    return st.one_of(joined(st.one_of(leaves)), bounded, causal)


@st.composite
def problems(draw):
    k_len = draw(st.integers(1, MOST))
    q_len = draw(st.one_of(st.just(k_len), st.integers(1, k_len)))
    groups, dtype = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from(list(TOLERANCE)))
    return draw(masks(k_len)), q_len, k_len, groups, dtype, draw(st.integers(0, 1000))


@settings(max_examples=300)
@given(problems())
def test_every_kernel_is_softmax_attention(problem):
    """Random expressions, each in every kernel that can do it: outputs and gradients."""
    mask, q_len, k_len, groups, dtype, seed = problem
    torch.manual_seed(seed)
    inputs = tensors(q_len, k_len, g=groups, dtype=dtype)
    agree(lambda q, k, v: attend(q, k, v, mask), inputs, mask)
    case = Case.of(*inputs[:2], mask, None, 0.0)
    for kernel in KERNELS:
        if kernel.refusal(case) is None:
            agree(lambda q, k, v, kernel=kernel: kernel(q, k, v, mask), inputs, mask)
        if isinstance(kernel, Tiled) and (parts := kernel.parts(mask, q_len, k_len)):
            agree(lambda q, k, v, parts=parts: stepwise(q, k, v, parts, None, 8**-0.5, 0.0), inputs, mask)
