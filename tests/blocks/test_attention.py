"""The Attention module against torch's own and against the formula written out, in float64."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.biases import ALiBi
from fieldguide.blocks.cores import Linear, Linformer, Performer, Projection, Softmax
from fieldguide.blocks.masks import Causal, Documents, Full, Mask, Padding, Prefix, Window
from fieldguide.blocks.positions import Rotary
from fieldguide.errors import FieldguideError

EXACT = {"rtol": 0, "atol": 1e-12}


def tokens(n: int, width: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, n, width, dtype=torch.float64)


def formula(layer: Attention, x: torch.Tensor, memory: torch.Tensor | None = None, mask: Mask = Full()) -> torch.Tensor:
    """Head by head, from the projections' weights alone."""
    source = x if memory is None else memory
    q, k, v = layer.query(x), layer.key(source), layer.value(source)
    shared, c, outputs = layer.num_heads // layer.num_kv_heads, layer.head_dim, []
    seen = (layer.mask & mask).dense(x.shape[1], source.shape[1])
    for head in range(layer.num_heads):
        mine, theirs = slice(head * c, (head + 1) * c), slice(head // shared * c, (head // shared + 1) * c)
        query, key = layer.query_norm(q[..., mine]), layer.key_norm(k[..., theirs])
        if layer.positions is not None:
            query, key = (z[:, 0] for z in layer.positions(query[:, None], key[:, None]))
        scores = query @ key.transpose(-2, -1) * (c**-0.5 if layer.scale is None else layer.scale)
        if layer.bias is not None:
            scores = scores + layer.bias(x.shape[1], source.shape[1])[:, head]
        weights = scores.masked_fill(~seen[:, 0], -torch.inf).softmax(-1).nan_to_num(0.0)
        outputs.append(weights @ v[..., theirs])
    return layer.output(torch.cat(outputs, -1))


CONFIGURATIONS = {
    "plain": {},
    "causal": {"mask": Causal()},
    "window": {"mask": Causal() & Window(4)},
    "grouped": {"num_kv_heads": 2, "mask": Causal()},
    "one key head": {"num_kv_heads": 1},
    "wide heads": {"head_dim": 10},
    "T5": {"biased": (), "scale": 1.0, "head_dim": 3, "bias": ALiBi(4)},
    "GPT-Neo": {"biased": ("output",), "scale": 1.0, "mask": Causal() & Window(3)},
    "normalised": {"qk_norm": nn.RMSNorm, "num_kv_heads": 2},
    "rotary": {"positions": Rotary(4), "mask": Causal()},
    "everything": {"positions": Rotary(6), "head_dim": 6, "num_kv_heads": 2, "mask": Causal() | Prefix(3),
                   "qk_norm": nn.LayerNorm, "bias": ALiBi(4), "scale": 0.7},
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_self_attention_is_the_formula(name: str):
    torch.manual_seed(0)
    layer, x = Attention(16, 4, **CONFIGURATIONS[name]).double().eval(), tokens(11, 16)
    for mask in (Full(), Padding(torch.rand(2, 11) > 0.3)):
        torch.testing.assert_close(layer(x, mask=mask), formula(layer, x, mask=mask), **EXACT)
    assert layer(x).std() > 1e-2


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if "positions" not in CONFIGURATIONS[name]])
def test_cross_attention_is_the_formula(name: str):
    torch.manual_seed(0)
    settings = CONFIGURATIONS[name] | {"mask": Full()}
    layer, x, memory = Attention(16, 4, memory_dim=9, **settings).double().eval(), tokens(5, 16), tokens(8, 9)
    for mask in (Full(), Padding(torch.rand(2, 8) > 0.3)):
        torch.testing.assert_close(layer(x, memory, mask=mask), formula(layer, x, memory, mask), **EXACT)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("cross", [False, True])
def test_it_equals_torchs_multi_head_attention(causal: bool, cross: bool):
    torch.manual_seed(0)
    width = 9 if cross else 16
    theirs = nn.MultiheadAttention(16, 4, kdim=width, vdim=width, batch_first=True).double()
    nn.init.normal_(theirs.in_proj_bias)
    mine = Attention(16, 4, memory_dim=width, mask=Causal() if causal else Full()).double()
    parts = theirs.in_proj_weight.chunk(3) if not cross else [getattr(theirs, f"{part}_proj_weight") for part in "qkv"]
    with torch.no_grad():
        for linear, weight, bias in zip(
            (mine.query, mine.key, mine.value), parts, theirs.in_proj_bias.chunk(3), strict=True
        ):
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        mine.output.load_state_dict(theirs.out_proj.state_dict())
    x, source = tokens(7, 16), tokens(7, width)
    source = source if cross else x
    hidden = torch.ones(7, 7, dtype=torch.bool).triu(1) if causal else None
    expected, _ = theirs(x, source, source, attn_mask=hidden)
    torch.testing.assert_close(mine(x, source if cross else None), expected, **EXACT)


@pytest.mark.parametrize(
    ("biased", "parameters"),
    [(("query", "key", "value", "output"), 4 * 16 * 16 + 4 * 16), ((), 4 * 16 * 16), (("output",), 4 * 16 * 16 + 16)],
)
def test_papers_choose_which_projections_add_a_bias(biased: tuple[str, ...], parameters: int):
    layer = Attention(16, 4, biased=biased)
    assert sum(p.numel() for p in layer.parameters()) == parameters
    assert [name for name, part in layer.named_children() if getattr(part, "bias", None) is not None] == list(biased)


def test_heads_need_not_divide_the_width_when_their_width_is_given():
    layer = Attention(512, 6, head_dim=64, biased=())  # T5 v1.1 small
    assert layer.query.weight.shape == (384, 512)
    assert layer(torch.randn(1, 3, 512)).shape == (1, 3, 512)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    layer, x = Attention(16, 4, dropout=0.5).double(), tokens(9, 16)
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))
    torch.testing.assert_close(layer(x), formula(layer, x), **EXACT)


def test_print_shows_the_mask_and_only_what_was_chosen():
    text = repr(Attention(16, 4, mask=Causal() & Window(4)))
    assert "mask=Causal() & Window(4)" in text
    assert "scale" not in text
    assert "num_kv_heads=2" in repr(Attention(16, 4, num_kv_heads=2))


@pytest.mark.parametrize("core", [Softmax, Linear, lambda: Performer(16), lambda: Linformer(Projection(20, 5))])
def test_every_core_serves_self_and_cross_attention(core):
    torch.manual_seed(0)
    layer, x, memory = Attention(16, 4, core=core(), num_kv_heads=2).double().eval(), tokens(9, 16), tokens(13, 16)
    assert layer(x).shape == layer(x, memory).shape == x.shape
    keep = torch.arange(13) < 8
    torch.testing.assert_close(layer(x, memory, mask=Padding(keep[None])), layer(x, memory[:, :8]), **EXACT)
    assert not torch.allclose(layer(x, memory), layer(x, memory[:, :8]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"d_model": 100}, r"Attention: d_model=100 does not divide into num_heads=8 heads; choose d_model=96.*head"),
        ({"d_model": 4}, r"d_model=4 .*choose d_model=8"),
        ({"num_kv_heads": 3}, r"num_heads=8 heads cannot share num_kv_heads=3 evenly; choose a divisor of 8"),
        ({"num_kv_heads": 0}, r"cannot share num_kv_heads=0 evenly"),
        ({"num_heads": 0}, r"d_model=96 and num_heads=0; both must be at least 1"),
        ({"biased": ("qurey",)}, r"unknown projection 'qurey'; did you mean 'query'\?"),
        ({"mask": Padding(torch.ones(1, 4, dtype=torch.bool))}, r"Padding\(.*holds the data of one batch; give it"),
        ({"mask": Causal() & ~Documents(torch.ones(1, 4, dtype=torch.long))}, r"Documents\(.*give it to forward"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_in_one_line(arguments: dict, message: str):
    with pytest.raises(FieldguideError, match=message) as caught:
        Attention(**({"d_model": 96, "num_heads": 8} | arguments))
    assert "\n" not in str(caught.value)


def test_inputs_of_the_wrong_width_are_refused_with_sizes_and_fix():
    layer = Attention(16, 4, memory_dim=9)
    with pytest.raises(
        FieldguideError, match=r"shape \(1, 3, 12\) has width 12, but d_model=16; build it with d_model=12"
    ):
        layer(torch.randn(1, 3, 12), torch.randn(1, 3, 9))
    with pytest.raises(FieldguideError, match=r"width 10, but memory_dim=9"):
        layer(torch.randn(1, 3, 16), torch.randn(1, 3, 10))
    with pytest.raises(FieldguideError, match=r"width 16, but memory_dim=9"):
        layer(torch.randn(1, 3, 16))


def test_rotary_positions_are_refused_in_cross_attention():
    with pytest.raises(FieldguideError, match=r"Rotary.*memory is another"):
        Attention(16, 4, positions=Rotary(4))(torch.randn(1, 3, 16), torch.randn(1, 3, 16))


def test_masks_of_another_batch_are_refused():
    with pytest.raises(FieldguideError, match="does not fit"):
        Attention(16, 4)(torch.randn(2, 3, 16), mask=Padding(torch.ones(2, 4, dtype=torch.bool)))


def test_a_mask_given_to_forward_leaves_no_trace():
    torch.manual_seed(0)
    layer, x = Attention(16, 4, mask=Causal()).double(), tokens(6, 16)
    before = layer(x)
    layer(x, mask=Padding(torch.rand(2, 6) > 0.5))
    assert torch.equal(layer(x), before)
    assert layer.mask == Causal()


# Exporting and compiling run in a process of their own, without the test runner's type checks, which they would trace.
SETUP = """
    import torch
    from torch import nn
    from fieldguide.blocks.attention import Attention
    from fieldguide.blocks.biases import ALiBi
    from fieldguide.blocks.cache import DynamicCache, SlidingCache, StaticCache
    from fieldguide.blocks.cores import Linear, Linformer, Performer, Projection
    from fieldguide.blocks.masks import Causal, Padding, Window
    from fieldguide.blocks.positions import Rotary

    class Padded(nn.Module):  # the mask is made from data and travels inside
        def __init__(self, **settings):
            super().__init__()
            self.attention = Attention(32, 4, **settings)

        def forward(self, x, keep):
            return self.attention(x, mask=Padding(keep))

    torch.manual_seed(0)
    cases = {
        "plain": dict(),
        "causal": dict(mask=Causal(), num_kv_heads=2, qk_norm=nn.LayerNorm),
        "window": dict(mask=Causal() & Window(4), positions=Rotary(8)),
        "alibi": dict(bias=ALiBi(4)),
        "linear": dict(core=Linear(), mask=Causal()),
        "performer": dict(core=Performer(16), mask=Causal()),
        "linformer": dict(core=Linformer(Projection(32, 4))),
    }
    x, keep = torch.randn(2, 20, 32), torch.rand(2, 20) > 0.3
    keep[:, 0] = True
"""


def run_alone(body: str) -> None:
    script = textwrap.dedent(SETUP) + textwrap.dedent(body)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_layers_export_and_compile_as_one_graph_with_the_mask_inside():
    run_alone("""
        for name in ("window", "performer"):
            model = Padded(**cases[name]).eval()
            program = torch.export.export(model, (x, keep)).module()
            other = torch.randn(2, 20, 32), keep.flip(0)  # the mask is data of the program, not a constant
            torch.testing.assert_close(program(*other), model(*other), rtol=0, atol=1e-6, msg=name)
            assert (program(x, keep) - program(x, keep.flip(0))).abs().max() > 1e-3
        model = Padded(**cases["causal"])
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x, keep), model(x, keep))
    """)


@pytest.mark.slow
def test_every_configuration_exports():
    run_alone("""
        for name, settings in cases.items():
            model = Padded(**settings).eval()
            program = torch.export.export(model, (x, keep)).module()
            other = torch.randn(2, 20, 32), torch.rand(2, 20) > 0.3
            torch.testing.assert_close(program(*other), model(*other), rtol=0, atol=1e-6, msg=name)
    """)


@pytest.mark.slow
def test_cores_export_for_any_length():
    run_alone("""
        n = torch.export.Dim("n", min=2, max=32)
        for name in ("plain", "linear", "performer", "linformer"):
            model = Padded(**cases[name]).eval()
            program = torch.export.export(model, (x, keep), dynamic_shapes=({1: n}, {1: n})).module()
            for length in (3, 31):
                other = torch.randn(2, length, 32), torch.rand(2, length) > 0.3
                torch.testing.assert_close(program(*other), model(*other), rtol=0, atol=1e-6, msg=name)
    """)


@pytest.mark.slow
def test_every_configuration_compiles_as_one_graph_with_its_gradients():
    run_alone("""
        for name, settings in cases.items():
            model = Padded(**settings)
            compiled, gradients = torch.compile(model, fullgraph=True), []
            for run in (compiled, model):
                y = run(x, keep)
                gradients.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
            for mine, theirs in zip(*gradients):
                torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4, msg=lambda m: f"{name}: {m}")
    """)


@pytest.mark.slow
def test_decoding_with_a_cache_compiles_as_one_graph():
    run_alone("""
        model = Attention(32, 4, mask=Causal() & Window(6), positions=Rotary(8)).eval()
        with torch.no_grad():
            for make in (DynamicCache, lambda: StaticCache(20), SlidingCache):
                torch._dynamo.reset()
                compiled, cache = torch.compile(model, fullgraph=True, backend="eager"), make()
                y = torch.cat([compiled(piece, cache=cache) for piece in x.split([9, 1, 1, 1, 8], 1)], 1)
                torch.testing.assert_close(y, model(x), rtol=0, atol=1e-6)
    """)
