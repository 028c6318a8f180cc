"""attend: every kernel, mask and number type against softmax attention written out in float64."""

import subprocess
import sys

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from tests.blocks.test_masks import table
from torch.utils._python_dispatch import TorchDispatchMode

from fieldguide.blocks.attend import attend, explain
from fieldguide.blocks.biases import ALiBi, RelativeBuckets, Scores
from fieldguide.blocks.kernels import Case
from fieldguide.blocks.kernels.banded import banded
from fieldguide.blocks.kernels.chunked import chunked
from fieldguide.blocks.kernels.dense import dense
from fieldguide.blocks.kernels.flex import flex
from fieldguide.blocks.kernels.hubs import hubs
from fieldguide.blocks.kernels.sdpa import sdpa
from fieldguide.blocks.kernels.strided import strided
from fieldguide.blocks.masks import (
    Causal,
    Chunked,
    Dilated,
    Documents,
    Full,
    Global,
    Mask,
    Padding,
    Prefix,
    Strided,
    Window,
)
from fieldguide.errors import FieldguideError

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


def reference(q, k, v, mask: Mask, bias=None, scale=None):
    """softmax(scale · q kᵀ + bias) v in float64, zero where nothing is visible: by the test's definition."""
    groups = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double().repeat_interleave(groups, 1), v.double().repeat_interleave(groups, 1)
    scores = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias(q.shape[2], k.shape[2]).double()
    weights = torch.exp(scores - scores.detach().amax(-1, keepdim=True)) * torch.from_numpy(
        table(mask, q.shape[2], k.shape[2])
    )
    total = weights.sum(-1, keepdim=True)
    return weights / torch.where(total > 0, total, 1.0) @ v


def tensors(q_len, k_len, *, b=2, h=4, g=2, c=8, e=8, dtype=torch.float64):
    shapes = (b, h, q_len, c), (b, g, k_len, c), (b, g, k_len, e)
    return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def distance(ours, exact) -> float:
    """The largest difference, in units of the exact tensor's scale where that is above 1."""
    return ((ours.double() - exact).abs().max() / exact.abs().max().clamp(min=1.0)).item()


def agree(compute, inputs, mask, bias=None, scale=None) -> None:
    """Output and all gradients of ``compute`` against the reference."""
    wanted = [*inputs, *(bias.parameters() if bias is not None else ())]
    exact = reference(*inputs, mask, bias, scale)
    seed = torch.randn_like(exact)
    expected = torch.autograd.grad(exact, wanted, seed, allow_unused=True, retain_graph=True)
    ours = compute(*inputs)
    assert ours.dtype == inputs[2].dtype
    got = torch.autograd.grad(ours, wanted, seed.to(ours.dtype), allow_unused=True)
    tolerance = TOLERANCE[ours.dtype]
    assert distance(ours, exact.detach()) <= tolerance
    for mine, right in zip(got, expected, strict=True):
        if mine is None or right is None:  # as good as zeros, and then for both
            assert all(gradient is None or not gradient.any() for gradient in (mine, right))
        else:
            assert distance(mine, right.double()) <= 2 * tolerance


CASES = {
    sdpa: [Full(), Causal(), Padding(torch.rand(2, 200) > 0.5), Prefix(7)],
    chunked: [Chunked(32), Causal() & Chunked(48), Chunked(64) & Padding(torch.rand(2, 200) > 0.5), Chunked(600)],
    banded: [Window(9), Causal() & Window(20), Window(9) & Padding(torch.rand(2, 200) > 0.5), ~Causal() & Window(9)],
    strided: [Strided(14), Causal() & Strided(14), Dilated(3), Dilated(3) & Window(30)],
    hubs: [Window(9) | Global([0, 50]), Causal() & (Window(9) | Prefix(3)), Causal() & Global([4, 5, 6])],
    dense: [Causal() & Documents(torch.arange(400).view(2, 200) // 37), Causal() | Prefix(20), ~Window(9)],
}
EACH = [pytest.param(kernel, mask, id=f"{kernel.name}-{mask}") for kernel, some in CASES.items() for mask in some]


def by(kernel):
    """Attention by this kernel wherever it can; attend picks the dense one for sequences as short as these."""

    def attention(q, k, v, mask, bias=None, scale=None, dropout=0.0):
        refused = kernel.refusal(Case.of(q, k, mask, bias, dropout))
        return (attend if refused else kernel)(q, k, v, mask, bias, scale, dropout)

    return attention


@pytest.mark.parametrize(("kernel", "mask"), EACH)
@pytest.mark.parametrize(
    "bias",
    [None, ALiBi(4), RelativeBuckets(4), ALiBi(4) + Scores(torch.randn(2, 1, 200, 200))],
    ids=["none", "ALiBi", "buckets", "sum"],
)
def test_biases_in_every_kernel_that_takes_them(kernel, mask, bias):
    inputs = tensors(200, 200, g=2)
    bias = bias.double() if bias is not None else None
    agree(lambda q, k, v: by(kernel)(q, k, v, mask, bias), inputs, mask, bias)
    agree(lambda q, k, v: attend(q, k, v, mask, bias), inputs, mask, bias)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("mask", [Full(), Causal(), Causal() & Padding(torch.rand(2, 60) > 0.5)], ids=str)
def test_a_learned_bias_in_every_type(mask, dtype, monkeypatch):
    monkeypatch.setattr("fieldguide.blocks.kernels.biased.AT_ONCE", 1)  # one batch row after the other
    bias = RelativeBuckets(4).double()
    inputs = tensors(60, 60, dtype=dtype, c=8, e=5)
    agree(lambda q, k, v: attend(q, k, v, mask, bias), inputs, mask, bias)


@pytest.mark.parametrize(("kernel", "mask"), EACH)
def test_long_sequences_take_the_same_answer_in_turns(kernel, mask, monkeypatch):
    """The dense kernel's rows in turn, and groups of tiles, at sizes that make several of each."""
    monkeypatch.setattr("fieldguide.blocks.kernels.dense.LONG", 1)
    monkeypatch.setattr("fieldguide.blocks.kernels.tiles.GROUP", 64)
    inputs = tensors(200, 200)
    agree(lambda q, k, v: kernel(q, k, v, mask), inputs, mask)
    agree(lambda q, k, v: dense(q, k, v, mask, ALiBi(4)), inputs, mask, ALiBi(4))


@pytest.mark.parametrize(
    ("kernel", "mask"),
    [(kernel, mask) for kernel, some in CASES.items() for mask in some if "batch" not in mask.depends_on],
)
def test_attend_is_right_with_the_kernel_it_picks(kernel, mask):
    assert kernel.name == explain(mask, 2048).kernel
    agree(lambda q, k, v: attend(q, k, v, mask), tensors(600, 600, b=1, g=2), mask)


@pytest.mark.parametrize(("kernel", "mask"), EACH)
def test_decoding_is_the_last_rows(kernel, mask):
    q, k, v = tensors(200, 200)
    everything = by(kernel)(q, k, v, mask)
    for some in (1, 3, 70):
        for attention in (attend, by(kernel)):
            torch.testing.assert_close(attention(q[:, :, -some:], k, v, mask), everything[:, :, -some:])


@pytest.mark.parametrize(
    ("kernel", "mask"),
    [
        (dense, Causal()),
        (banded, Window(5)),
        (chunked, Chunked(7)),
        (strided, Strided(5)),
        (hubs, Window(3) | Global([2])),
    ],
    ids=lambda x: str(getattr(x, "name", x)),
)
def test_more_queries_than_keys(kernel, mask):
    agree(lambda q, k, v: kernel(q, k, v, mask), tensors(170, 90), mask)
    agree(lambda q, k, v: attend(q, k, v, mask), tensors(170, 90), mask)


@pytest.mark.parametrize(("kernel", "mask"), EACH)
def test_head_widths_layouts_and_scale(kernel, mask):
    attention = by(kernel)
    for c, e in ((8, 5), (5, 8)):
        agree(lambda q, k, v: attention(q, k, v, mask, scale=0.3), tensors(200, 200, c=c, e=e), mask, scale=0.3)
    inputs = tensors(200, 200, g=4)
    apart = [
        x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in inputs
    ]  # as modules have it
    sparse = [x.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_() for x in inputs]
    for laid_out in (apart, sparse):
        agree(lambda q, k, v: attention(q, k, v, mask), laid_out, mask)
        torch.testing.assert_close(attention(*laid_out, mask), attention(*inputs, mask))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("kernel", "mask"), EACH)
def test_a_blind_query_is_zero_with_finite_gradients(kernel, mask, dtype):
    """The second sequence is all padding; one key of the first is hidden from the queries that see only it."""
    keep = torch.zeros(2, 200, dtype=torch.bool)
    keep[0, 100:] = True
    hidden = mask & Padding(keep)
    q, k, v = tensors(200, 200, dtype=dtype)
    for compute in (attend, kernel, dense):
        if compute is not attend and compute.refusal(Case.of(q, k, hidden, None, 0.0)) is not None:
            continue
        out = compute(q, k, v, hidden)
        assert torch.equal(out[1], torch.zeros_like(out[1]))
        blind = torch.from_numpy(~table(hidden, 200, 200).any(-1))[0, 0]
        assert torch.equal(out[0, :, blind], torch.zeros_like(out[0, :, blind]))
        gradients = torch.autograd.grad(out, (q, k, v), torch.ones_like(out))
        for gradient in gradients:
            assert gradient.isfinite().all()
            assert not gradient[1].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nobody_sees_anybody(dtype):
    q, k, v = tensors(5, 7, dtype=dtype)
    out = attend(q, k, v, ~Full())
    out.sum().backward()
    assert not out.any()
    assert all(x.grad is not None and not x.grad.any() for x in (q, k, v))


@pytest.mark.parametrize(("kernel", "mask"), EACH)
def test_dropout_drops_weights(kernel, mask):
    """With values that spell out the weights: each is dropped or scaled, at the right rate, and gradients follow."""
    q, k, _ = tensors(200, 200, g=4)
    v = torch.eye(200, dtype=torch.float64).expand(2, 4, 200, 200).clone().requires_grad_()
    weights, dropped = attend(q, k, v, mask), by(kernel)(q, k, v, mask, dropout=0.25)
    seen = weights > 1e-12
    kept = dropped > 1e-12
    torch.testing.assert_close(dropped[kept], weights[kept] / 0.75)
    assert kept[seen].double().mean().item() == pytest.approx(0.75, abs=0.02)
    assert not kept[~seen].any()
    assert all(g.isfinite().all() for g in torch.autograd.grad(dropped.square().sum(), (q, k, v)))


@pytest.mark.parametrize(("kernel", "mask"), EACH)
def test_a_wrong_mask_would_be_noticed(kernel, mask):
    """One pair more or less than the mask says moves the output by far more than any tolerance above."""
    q, k, v = tensors(200, 200)
    right = attend(q, k, v, mask)
    seen = torch.from_numpy(table(mask, 200, 200))
    row = 150
    for pair in (seen[0, 0, row].nonzero(), (~seen[0, 0, row]).nonzero()):
        if len(pair):
            wrong = seen.expand(2, 4, 200, 200).clone()
            wrong[0, :, row, pair[0]] ^= True
            other = F.scaled_dot_product_attention(q, k, v, wrong, enable_gqa=True)
            assert (other - right)[0, :, row].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("kernel", "mask"),
    [
        (sdpa, Causal()),
        (banded, Causal() & Window(6)),
        (chunked, Chunked(16)),
        (strided, Causal() & Strided(5)),
        (hubs, Window(3) | Global([0])),
        (dense, ~Window(3)),
    ],
    ids=lambda x: str(getattr(x, "name", x)),
)
def test_gradients_by_finite_differences(kernel, mask, monkeypatch):
    monkeypatch.setattr("fieldguide.blocks.kernels.banded.block_rows", lambda width: 8)
    inputs = tensors(40, 40, b=1, h=2, g=1, c=3, e=3)
    assert torch.autograd.gradcheck(lambda q, k, v: kernel(q, k, v, mask), inputs)


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any tensor made under it has."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else (out,):
            if isinstance(made, torch.Tensor):
                self.numel = max(self.numel, made.untyped_storage().nbytes() // made.element_size())
        return out


SPARSE = [
    Window(32),
    Causal() & Window(32),
    Window(32) & Padding(torch.ones(1, 2048, dtype=torch.bool)),
    Causal() & Window(32) & Documents(torch.arange(2048).view(1, -1) // 300),
    Chunked(64),
    Causal() & Strided(45),
    Window(32) | Global([0, 7]),
]


@pytest.mark.parametrize("mask", SPARSE, ids=str)
def test_no_tensor_is_quadratic(mask):
    n = 2048
    inputs = tensors(n, n, b=1, h=1, g=1, c=8, dtype=torch.float32)
    with LargestTensor() as largest:
        attend(*inputs, mask).sum().backward()
    assert largest.numel <= n * n / 16
    with LargestTensor() as largest, torch.no_grad():  # the gauge itself: a dense mask does make such a tensor
        F.scaled_dot_product_attention(*inputs, mask.dense(n))
    assert largest.numel >= n * n


def test_no_tensor_is_quadratic_even_in_the_fallback():
    n = 2048
    inputs = tensors(n, n, b=1, h=1, g=1, c=8, dtype=torch.float32)
    mask = Causal() & Documents(torch.arange(n).view(1, -1) // 900)
    with LargestTensor() as largest:
        attend(*inputs, mask, ALiBi(1)).sum().backward()
    assert largest.numel <= n * n / 4


@pytest.mark.parametrize(
    ("mask", "n", "kernel"),
    [
        (Full(), 4096, "sdpa"),
        (Causal(), 4096, "sdpa"),
        (Padding(torch.ones(1, 4096, dtype=torch.bool)), 4096, "sdpa"),
        (Window(256), 4096, "banded"),
        (Causal() & Window(256) & Padding(torch.ones(1, 4096, dtype=torch.bool)), 4096, "banded"),
        (Window(256), 256, "dense"),
        (Causal() & Chunked(512), 4096, "chunked"),
        (Causal() & Strided(64), 4096, "strided"),
        (Dilated(2) & Window(64), 4096, "strided"),
        (Window(256) | Global([0]), 4096, "hubs"),
        (Causal() | Prefix(9), 4096, "dense"),
    ],
)
def test_explain_names_the_kernel_that_attend_picks(mask, n, kernel):
    choice = explain(mask, n)
    assert choice.kernel == kernel
    assert str(mask) in choice.why
    assert "\n" not in str(choice)
    assert 0 < choice.pairs <= 1
    assert mask.density(n) <= choice.pairs + 1e-3


def test_explain_counts_the_pairs():
    assert explain(Chunked(512), 4096).pairs == pytest.approx(1 / 8)
    assert str(explain(Causal() & Chunked(512), 4096)).startswith("chunked: Causal() & Chunked(512) keeps every query")


@pytest.mark.parametrize(
    ("kernel", "mask", "arguments", "message"),
    [
        (
            sdpa,
            Causal() & Window(3),
            {},
            "kernel 'sdpa' cannot do this: Causal() & Window(3) needs a tensor of queries",
        ),
        (sdpa, Full(), {"bias": ALiBi(4)}, "kernel 'sdpa' cannot do this: it adds no bias"),
        (banded, Causal(), {}, "kernel 'banded' cannot do this: Causal() is not bounded by a window; attend() picks"),
        (chunked, Window(3), {}, "kernel 'chunked' cannot do this: Window(3) is not bounded by chunks"),
        (strided, Global([0]), {}, "kernel 'strided' cannot do this"),
        (hubs, Causal() | Prefix(2), {}, "kernel 'hubs' cannot do this"),
        (flex, Full(), {"dropout": 0.1}, "kernel 'flex' cannot do this: FlexAttention has no dropout"),
        (flex, Full(), {}, "no backward pass on a processor"),
    ],
)
def test_a_kernel_refuses_by_name(kernel, mask, arguments, message):
    inputs = tensors(10, 10, dtype=torch.float32)
    with pytest.raises(FieldguideError) as caught:
        kernel(*inputs, mask, **arguments)
    assert message in str(caught.value)


@pytest.fixture
def unchecked():
    """The test runner's shape checks off: what is refused here is what users meet, who have none."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


Q, K, V = (torch.zeros(2, heads, 6, 4) for heads in (4, 2, 2))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((Q, K, V, torch.zeros(6, 6)), "mask says who may see whom"),
        ((Q, K, V, torch.ones(6, 6, dtype=torch.bool)), "a bool tensor of shape (6, 6) is none"),
        ((Q, K, V, None), "mask says who may see whom"),
        ((Q, K, V, Full(), torch.zeros(1, 1, 6, 6)), "give added scores as Scores(tensor)"),
        ((Q, K, V, Full(), ALiBi(3)), "a bias for 3 heads does not fit 4 heads"),
        ((Q, K[:, :1].expand(2, 3, 6, 4), V), "h a multiple of g"),
        ((Q, K, V[:, :, :5]), "q (2, 4, 6, 4), k (2, 2, 6, 4) and v (2, 2, 5, 4) do not fit"),
        ((Q, K.double(), V), "convert them to one type"),
        ((Q, K, V, Padding(torch.ones(2, 5, dtype=torch.bool))), "does not fit a batch of 2 with 6 keys"),
        ((Q, K, V, Causal() & Padding(torch.ones(3, 6, dtype=torch.bool))), "does not fit a batch of 2 with 6 keys"),
    ],
)
def test_refusals_are_one_clear_line(arguments, message):
    with pytest.raises(FieldguideError) as caught:
        attend(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "mask", [Full(), Causal(), Window(9), Causal() & Strided(14), Chunked(32), ~Window(9)], ids=str
)
def test_autocast_works_in_its_type(mask):
    inputs = tensors(600, 600, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(*inputs, mask)
        mixed = attend(inputs[0].bfloat16(), *inputs[1:], mask)
    assert out.dtype == mixed.dtype == torch.bfloat16
    torch.testing.assert_close(out, mixed)
    assert distance(out, reference(*inputs, mask).detach()) <= 2e-2
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(out.sum(), inputs))


TRACED = """
import torch
from fieldguide.blocks.attend import attend
from fieldguide.blocks.biases import ALiBi, RelativeBuckets
from fieldguide.blocks.masks import *

class Layer(torch.nn.Module):
    def __init__(self, mask, bias):
        super().__init__()
        self.mask, self.bias = mask, bias
    def forward(self, q, k, v, keep):
        return attend(q, k, v, self.mask & Padding(keep), self.bias)

q, k, v = (torch.randn(2, heads, 600, 8, requires_grad=True) for heads in (4, 2, 2))
keep = torch.rand(2, 600) > 0.3
masks = Full(), Causal(), Window(9), Causal() & Window(9), Chunked(32), Causal() & Strided(14), Window(9) | Global([3])
for mask in masks:
    for bias in (None, ALiBi(4) + RelativeBuckets(4)):
        torch._dynamo.reset()
        layer = Layer(mask, bias)
        eager = layer(q, k, v, keep)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(q, k, v, keep)
        torch.testing.assert_close(compiled, eager)
        for one, other in zip(*(torch.autograd.grad(y.square().sum(), (q, k, v)) for y in (compiled, eager))):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        exported = torch.export.export(layer, (q, k, v, keep)).module()
        torch.testing.assert_close(exported(q, k, v, keep), eager)
        torch.testing.assert_close(exported(q, k, v, ~keep), layer(q, k, v, ~keep))  # the mask's data is an input
print("all")
"""


@pytest.mark.slow
def test_masks_travel_through_compile_and_export():
    """In an interpreter of its own: the test runner's shape checks are Python that a graph cannot hold."""
    done = subprocess.run([sys.executable, "-c", TRACED], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] == "all"


FLEX = """
import torch
from fieldguide.blocks.biases import ALiBi
from fieldguide.blocks.kernels.dense import dense
from fieldguide.blocks.kernels.flex import flex
from fieldguide.blocks.masks import *

q, k, v = (torch.randn(2, heads, 200, 16) for heads in (4, 2, 2))
keep = torch.rand(2, 200) > 0.3
keep[1] = False
for mask in (Full(), Causal() & Window(16), Causal() & Padding(keep), Window(8) | Global([0, 3])):
    for bias in (None, ALiBi(4)):
        torch.testing.assert_close(flex(q, k, v, mask, bias), dense(q, k, v, mask, bias))
print("all")
"""


@pytest.mark.slow
def test_flex_attention_says_the_same():
    """Forward, on the processor; it needs a C++ compiler there."""
    done = subprocess.run([sys.executable, "-c", FLEX], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] == "all"


ONE = [
    Causal(),
    Causal() & Window(3),
    Causal() & Window(9) & Padding(torch.arange(9) > torch.tensor([[1], [4]])),
    Causal() & Window(8) | Global([0]),
    ~Causal(),
    Causal() & Documents(torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1]])),
]


@pytest.mark.parametrize("mask", ONE, ids=str)
@pytest.mark.parametrize("bias", [None, RelativeBuckets(4, two_sided=False)], ids=["", "bias"])
def test_the_last_query_alone_sees_what_its_mask_shows(mask, bias):
    agree(lambda q, k, v: attend(q, k, v, mask, bias), tensors(1, 9), mask, bias and bias.double())
