"""The cores against their papers' equations, written pair by pair in float64."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fieldguide.blocks.biases import ALiBi
from fieldguide.blocks.cores import Core, Linear, Linformer, Performer, Projection, Softmax
from fieldguide.blocks.kernels.performer import orthogonal_gaussian
from fieldguide.blocks.masks import Causal, Documents, Full, Mask, Padding, Window
from fieldguide.errors import FieldguideError

EXACT = {"rtol": 0, "atol": 1e-10}
LONGEST = 2600  # two and a half stretches


def draw(q_len: int, k_len: int | None = None, *, heads: int = 4, kv_heads: int = 2, batch: int = 2, width: int = 6):
    k_len = q_len if k_len is None else k_len
    q = torch.randn(batch, heads, q_len, width, dtype=torch.float64, requires_grad=True)
    k = torch.randn(batch, kv_heads, k_len, width, dtype=torch.float64, requires_grad=True)
    v = torch.randn(batch, kv_heads, k_len, width + 1, dtype=torch.float64, requires_grad=True)
    return q, k, v


def similarity(core: Core, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """What each paper puts in place of exp(q·k/√c), for every pair."""
    if isinstance(core, Linear):
        return (F.elu(q) + 1) @ (F.elu(k) + 1).transpose(-2, -1)
    x, y = (z / z.shape[-1] ** 0.25 for z in (q, k))
    w, m = core.projection.to(x.dtype), core.projection.shape[0]
    features = [(z @ w.T - z.square().sum(-1, keepdim=True) / 2).exp() / m**0.5 for z in (x, y)]
    return features[0] @ features[1].transpose(-2, -1)


def reference(core: Core, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Mask) -> torch.Tensor:
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    pairs = similarity(core, q, k) * mask.dense(q.shape[2], k.shape[2])
    total = pairs.sum(-1, keepdim=True)
    return pairs / total.where(total > 0, 1.0) @ v


def feature_cores() -> list[Core]:
    torch.manual_seed(0)
    return [Linear(), Performer(features=20, head_dim=6)]


@pytest.mark.parametrize("core", feature_cores(), ids=lambda core: type(core).__name__)
@pytest.mark.parametrize(("q_len", "k_len"), [(1, 1), (7, 7), (130, 130), (3, 200), (200, 3), (129, 1100), (1100, 129)])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("structure", [Full(), Causal()])
def test_feature_cores_equal_their_equation_and_its_gradient(
    core: Core, q_len: int, k_len: int, padded: bool, structure: Mask
):
    torch.manual_seed(q_len * k_len)
    q, k, v = draw(q_len, k_len)
    mask = structure & Padding(torch.rand(2, k_len) > 0.4) if padded else structure
    upstream = torch.randn(2, 4, q_len, 7, dtype=torch.float64)
    results = []
    for compute in (core, lambda *a: reference(core, *a)):
        y = compute(q, k, v, mask)
        results.append([y, *torch.autograd.grad((y * upstream).sum(), (q, k, v))])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, **EXACT)


@pytest.mark.parametrize("core", feature_cores(), ids=lambda core: type(core).__name__)
def test_long_sequences_cross_stretches_and_stay_causal(core: Core):
    q, k, v = (x.detach() for x in draw(LONGEST, heads=1, kv_heads=1, batch=1))
    y = core(q, k, v, Causal())
    rows = torch.tensor([0, 127, 128, 1023, 1024, 2047, 2048, LONGEST - 1])
    torch.testing.assert_close(y[:, :, rows], reference(core, q, k, v, Causal())[:, :, rows], **EXACT)
    k[:, :, 1500:] = v[:, :, 1500:] = 3.0
    changed = core(q, k, v, Causal())
    torch.testing.assert_close(changed[:, :, :1500], y[:, :, :1500], **EXACT)
    assert (changed[:, :, 1500:] - y[:, :, 1500:]).abs().amin(-1).min() > 1e-6


@given(st.lists(st.integers(1, 140), min_size=1, max_size=6), st.integers(0, 2**16))
def test_the_state_of_linear_attention_equals_its_parallel_form(pieces: list[int], seed: int):
    """Katharopoulos et al. 2020, §3.4: the recurrence, some tokens at a time, is the causal sum."""
    torch.manual_seed(seed)
    core, state, outputs = Linear(), None, []
    q, k, v = (x.detach() for x in draw(sum(pieces)))
    for x, y, z in zip(q.split(pieces, 2), k.split(pieces, 2), v.split(pieces, 2), strict=True):
        out, state = core.step(x, y, z, state)
        outputs.append(out)
    torch.testing.assert_close(torch.cat(outputs, 2), core(q, k, v, Causal()), **EXACT)
    assert state is not None
    assert state.shape == (2, 4, 6, 8)


def test_the_scale_of_linear_attention_multiplies_the_queries():
    q, k, v = draw(5)
    torch.testing.assert_close(Linear()(q, k, v, scale=0.3), Linear()(q * 0.3, k, v), **EXACT)
    assert not torch.allclose(Linear()(q, k, v, scale=0.3), Linear()(q, k, v))


def error_of_performer(features: int, draws: int = 4) -> float:
    """Rms difference to softmax: 8 heads of width 64, 128 tokens, q and k normal with variance ¼, v with variance 1."""
    total = 0.0
    for seed in range(draws):
        torch.manual_seed(seed)
        q, k, v = torch.randn(3, 1, 8, 128, 64, dtype=torch.float64) * torch.tensor([0.5, 0.5, 1]).view(3, 1, 1, 1, 1)
        estimate = Performer(features, head_dim=64).double()(q, k, v)
        total += (estimate - F.scaled_dot_product_attention(q, k, v)).square().mean().item() / draws
    return total**0.5


def test_performers_error_falls_with_the_number_of_features():
    errors = [error_of_performer(features) for features in (64, 256, 1024, 4096)]
    for fewer, more in itertools.pairwise(errors):
        assert more < 0.75 * fewer  # ½ for four times the features, once the estimate has left its skewed beginning
    assert errors[2] <= 0.045


@pytest.mark.parametrize(
    "mask", [Full(), Causal(), Padding(torch.arange(60).expand(2, 60) % 3 > 0) & Causal()], ids=str
)
def test_performer_approaches_softmax_for_small_scores(mask: Mask):
    torch.manual_seed(0)
    q, k, v = (x.detach() for x in draw(60, width=16))
    core, scale = Performer(10_000, head_dim=16).double(), 0.5
    estimate = core(q * 0.3, k * 0.3, v, mask, scale=scale)
    errors = [estimate - Softmax()(q * 0.3, k * 0.3, v, mask, scale=s) for s in (scale, None)]
    right, wrong = (error.square().mean().sqrt() for error in errors)
    assert right < 0.005
    assert wrong > 2 * right


def test_performers_directions_are_orthogonal_and_as_long_as_gaussian_vectors():
    torch.manual_seed(0)
    directions = orthogonal_gaussian(64 * 30, 64)
    for block in directions.split(64):
        unit = F.normalize(block, dim=1)
        torch.testing.assert_close(unit @ unit.T, torch.eye(64, dtype=torch.float64), rtol=0, atol=1e-12)
    lengths = directions.square().sum(1)
    assert lengths.mean().item() == pytest.approx(64, abs=1.5)  # chi-squared with 64 degrees: sd √128
    assert lengths.std().item() == pytest.approx(128**0.5, rel=0.1)
    assert abs(directions.mean().item()) < 0.02
    assert orthogonal_gaussian(5, 64).shape == (5, 64)


def test_performers_features_are_saved_and_redrawn():
    first, second = Performer(32, head_dim=8), Performer(32, head_dim=8)
    q, k, v = (x.detach() for x in draw(9, width=8))
    assert not torch.allclose(first(q, k, v), second(q, k, v))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(q, k, v), second(q, k, v))
    before = first.projection.clone()
    first.redraw()
    assert (first.projection - before).abs().mean() > 0.1
    assert Performer(head_dim=64).projection.shape == (266, 64)


def test_performer_keeps_large_keys_finite():
    q, k, v = (x.detach().float() * 40 for x in draw(30))
    for mask in (Full(), Causal()):
        assert Performer(50, head_dim=6)(q, k, v, mask).isfinite().all()


def test_performer_says_how_to_learn_the_head_width():
    q, k, v = draw(4)
    with pytest.raises(FieldguideError, match=r"head width 6.*build it with head_dim=6"):
        Performer(16)(q, k, v)


def linformer(n: int, slots: int, *, shared: bool) -> Linformer:
    core = Linformer(Projection(n, slots), None if shared else Projection(n, slots)).double()
    return core


def test_linformer_with_identity_projections_is_full_attention():
    n, (q, k, v) = 12, draw(12)
    core = linformer(n, n, shared=False)
    for projection in (core.keys, core.values):
        torch.nn.init.eye_(projection.weight)
    torch.testing.assert_close(core(q, k, v), Softmax()(q, k, v), **EXACT)
    torch.testing.assert_close(core(q, k, v, scale=1.3), Softmax()(q, k, v, scale=1.3), **EXACT)


@pytest.mark.parametrize("shared", [False, True])
def test_linformer_is_the_papers_equation_for_any_length_up_to_the_longest(shared: bool):
    core, (q, k, v) = linformer(12, 5, shared=shared), draw(9, kv_heads=4)
    e, f = core.keys.weight[:9], (core.keys if shared else core.values).weight[:9]
    scores = q @ torch.einsum("bhnc,ns->bhcs", k, e) / 6**0.5
    expected = scores.softmax(-1) @ torch.einsum("bhnc,ns->bhsc", v, f)
    torch.testing.assert_close(core(q, k, v), expected, **EXACT)
    assert len(list(core.parameters())) == len(core.state_dict()) == 2 - shared
    with pytest.raises(FieldguideError, match=r"13 tokens.*max_len=12.*max_len=13"):
        core(*draw(13))


def test_linformer_padded_on_the_right_is_linformer_of_the_real_tokens():
    core, (q, k, v) = linformer(12, 5, shared=False), draw(12)
    keep = (torch.arange(12) < 8).expand(2, 12)
    torch.testing.assert_close(core(q, k, v, Padding(keep)), core(q, k[:, :, :8], v[:, :, :8]), **EXACT)
    assert not torch.allclose(core(q, k, v, Padding(keep)), core(q, k, v))


def test_linformers_projections_can_serve_several_layers():
    shared = Projection(8, 3)
    layers = torch.nn.ModuleList([Linformer(shared), Linformer(shared)])
    assert sum(p.numel() for p in layers.parameters()) == 24


CORES = {
    "softmax": Softmax(),
    "linear": Linear(),
    "performer": Performer(20, head_dim=6).double(),
    "linformer": linformer(300, 4, shared=False),
}


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("padded", [False, True])
def test_weights_times_values_is_the_output(name: str, padded: bool):
    core, (q, k, v) = CORES[name], draw(300)
    keep = torch.rand(2, 300) > 0.3
    mask = Padding(keep) if padded else Full()
    for whole in [mask] if name == "linformer" else [mask, mask & Causal()]:
        weights = core.weights(q, k, whole)
        torch.testing.assert_close(weights @ v.repeat_interleave(2, 1), core(q, k, v, whole), **EXACT)
        if padded:
            assert not weights.masked_select(~keep[:, None, None]).any()


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_query_that_sees_nothing_gives_zero_and_finite_gradients(name: str, dtype: torch.dtype):
    core = CORES[name]
    q, k, v = (x.detach().to(dtype).requires_grad_() for x in draw(10))
    core = core if dtype == torch.float64 or name != "linformer" else linformer(300, 4, shared=False).to(dtype)
    keep = torch.ones(2, 10, dtype=torch.bool)
    keep[0] = False
    keep[1, :4] = False
    mask = Padding(keep) if name == "linformer" else Padding(keep) & Causal()
    y = core(q, k, v, mask)
    assert y.dtype == dtype
    assert not y[0].any()
    assert name == "linformer" or not y[1, :, :4].any()
    assert y[1, :, 4:].any(-1).all()
    for gradient in torch.autograd.grad(y.float().square().sum(), (q, k, v)):
        assert gradient.isfinite().all()
        assert not gradient[0].any()
        assert gradient[1].any()


@pytest.mark.parametrize("core", feature_cores(), ids=lambda core: type(core).__name__)
def test_half_precision_sums_in_float32(core: Core):
    q, k, v = (x.detach() for x in draw(1500))
    y = core(*(x.bfloat16() for x in (q, k, v)), Causal())
    assert y.dtype == torch.bfloat16
    assert (y.double() - core(*(x.bfloat16().double() for x in (q, k, v)), Causal())).abs().max() < 2e-2
    with torch.autocast("cpu", torch.bfloat16):
        inside = core(*(x.float() for x in (q, k, v)), Causal())
    torch.testing.assert_close(inside.double(), core(q, k, v, Causal()), rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["linear", "performer", "linformer"])
@pytest.mark.parametrize("mask", [Window(3), Causal() & Window(3), ~Causal(), Causal() | Window(2)], ids=str)
def test_masks_that_cannot_be_honoured_are_refused_by_name(name: str, mask: Mask):
    with pytest.raises(FieldguideError, match=rf"{name.title()} attention cannot honour mask=.*use core=Softmax"):
        CORES[name](*draw(6), mask)


@pytest.mark.parametrize("name", ["linear", "performer", "linformer"])
def test_biases_documents_and_wrong_lengths_are_refused_by_name(name: str):
    core, (q, k, v) = CORES[name], draw(6)
    with pytest.raises(FieldguideError, match="cannot honour bias=ALiBi"):
        core(q, k, v, bias=ALiBi(4))
    with pytest.raises(FieldguideError, match="cannot honour mask=Documents"):
        core(q, k, v, Documents(torch.zeros(2, 6, dtype=torch.long)))
    with pytest.raises(FieldguideError, match="does not fit"):
        core(q, k, v, Padding(torch.ones(2, 5, dtype=torch.bool)))


def test_linformer_refuses_causal_by_name():
    with pytest.raises(
        FieldguideError, match=r"Linformer attention cannot honour mask=Causal\(\): its keys are mixtures"
    ):
        CORES["linformer"](*draw(6), Causal())


@pytest.mark.parametrize("name", ["linear", "performer"])
def test_dropout_is_refused_where_there_are_no_weights_to_drop(name: str):
    with pytest.raises(FieldguideError, match=r"cannot honour dropout=0\.1"):
        CORES[name](*draw(6), dropout=0.1)


def test_dropout_of_linformer_drops_slots():
    core, (q, k, v) = CORES["linformer"], draw(6)
    assert not core(q, k, v, dropout=0.999).any(-1).all()
