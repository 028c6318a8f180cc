"""Transformer blocks against PyTorch's own, in both norm positions, and what stacks of them do."""

import pytest
import torch
from torch import nn

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.biases import ALiBi, RelativeBuckets
from fieldguide.blocks.feedforward import FeedForward
from fieldguide.blocks.masks import Causal, Padding
from fieldguide.blocks.residual import LayerScale, StochasticDepth
from fieldguide.blocks.transformer import PostNormBlock, PreNormBlock, Stack
from fieldguide.errors import FieldguideError

D, HEADS, D_FF = 12, 3, 20
BLOCKS = [PreNormBlock, PostNormBlock]


def build(kind, *, decoder=False, **options):
    return kind(
        Attention(D, HEADS),
        FeedForward(D, D_FF, activation=nn.ReLU()),
        cross_attention=Attention(D, HEADS) if decoder else None,
        **options,
    ).double()


def attention_weights(ours, theirs, state):
    """PyTorch keeps query, key and value in one matrix."""
    for kind, fused in (("weight", state[f"{theirs}.in_proj_weight"]), ("bias", state[f"{theirs}.in_proj_bias"])):
        for part, rows in zip(("query", "key", "value"), fused.chunk(3), strict=True):
            yield f"{ours}.{part}.{kind}", rows
        yield f"{ours}.output.{kind}", state[f"{theirs}.out_proj.{kind}"]


def copy_weights(ours: nn.Module, theirs: nn.Module, *, decoder: bool) -> None:
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, 0.2, 0.4)
    state, cross = theirs.state_dict(), decoder
    new = dict(attention_weights("attention", "self_attn", state))
    norms = (
        ["attention_norm", "cross_attention_norm", "feedforward_norm"]
        if cross
        else ["attention_norm", "feedforward_norm"]
    )
    if cross:
        new |= attention_weights("cross_attention", "multihead_attn", state)
    for kind in ("weight", "bias"):
        new |= {f"feedforward.expand.{kind}": state[f"linear1.{kind}"]}
        new |= {f"feedforward.contract.{kind}": state[f"linear2.{kind}"]}
        new |= {f"{norm}.{kind}": state[f"norm{i}.{kind}"] for i, norm in enumerate(norms, 1)}
    ours.load_state_dict(new)


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(2, 7, D, dtype=torch.float64)


@pytest.fixture
def keep():
    return torch.arange(7) < torch.tensor([[7], [4]])


@pytest.mark.parametrize("kind", BLOCKS)
def test_encoder_block_equals_pytorchs(kind, x, keep):
    theirs = nn.TransformerEncoderLayer(D, HEADS, D_FF, 0.0, batch_first=True, norm_first=kind is PreNormBlock).double()
    ours = build(kind)
    copy_weights(ours, theirs, decoder=False)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)
    expected = theirs(x, src_key_padding_mask=~keep)
    torch.testing.assert_close(ours(x, mask=Padding(keep))[keep], expected[keep], rtol=1e-10, atol=1e-10)
    assert (expected[keep] - theirs(x)[keep]).abs().max() > 1e-3, "padding matters"


@pytest.mark.parametrize("kind", BLOCKS)
def test_decoder_block_equals_pytorchs(kind, x, keep):
    theirs = nn.TransformerDecoderLayer(D, HEADS, D_FF, 0.0, batch_first=True, norm_first=kind is PreNormBlock).double()
    ours, y = build(kind, decoder=True), torch.randn(2, 5, D, dtype=torch.float64)
    copy_weights(ours, theirs, decoder=True)
    causal = nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64)
    expected = theirs(y, x, tgt_mask=causal, memory_key_padding_mask=~keep)
    actual = ours(y, x, mask=Causal(), memory_mask=Padding(keep))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_causal_block_never_sees_the_future(kind, x):
    block = kind(Attention(D, HEADS, mask=Causal()), FeedForward(D, D_FF)).double()
    changed = x.clone()
    changed[:, 4:] = torch.randn(2, 3, D, dtype=torch.float64)
    torch.testing.assert_close(block(changed)[:, :4], block(x)[:, :4], rtol=0, atol=1e-12)
    assert (block(changed)[:, 4:] - block(x)[:, 4:]).abs().min() > 0


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_stack_registers_every_layer(kind):
    stack = Stack(build(kind) for _ in range(6))
    one = sum(p.numel() for p in build(kind).parameters())
    final = 2 * D if kind is PreNormBlock else 0
    assert sum(p.numel() for p in stack.parameters()) == 6 * one + final
    assert {name.split(".")[1] for name in stack.state_dict() if name.startswith("layers")} == set("012345")


def test_only_a_stack_of_pre_norm_blocks_ends_in_a_norm(x):
    pre, post = Stack([build(PreNormBlock)]), Stack([build(PostNormBlock)])
    assert isinstance(pre.norm, nn.LayerNorm)
    assert isinstance(post.norm, nn.Identity)
    torch.testing.assert_close(pre.double()(x), pre.norm(pre.layers[0](x)))
    assert torch.equal(post(x), post.layers[0](x))


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("own", [False, True], ids=["alone", "beside the layers' own"])
def test_a_stack_has_one_bias_for_all_its_layers(kind, own, x):
    bias, alibi = RelativeBuckets(HEADS).double(), ALiBi(HEADS).double()
    stack = Stack([build(kind, decoder=True), build(kind, decoder=True)], bias=bias).double()
    assert [name for name in stack.state_dict() if "table" in name] == ["bias.table.weight"]
    for layer in stack.layers:
        layer.attention.bias = alibi if own else None
    shared, stack.bias = stack(x, x), None
    assert (shared - stack(x, x)).abs().max() > 1e-3, "the bias matters"
    for layer in stack.layers:
        layer.attention.bias = alibi + bias if own else bias
    torch.testing.assert_close(stack(x, x), shared, rtol=0, atol=1e-12)


def last_feedforward_gradient(kind, num_layers):
    torch.manual_seed(0)
    blocks = [kind(Attention(32, 4), FeedForward(32, 64, activation=nn.ReLU())) for _ in range(num_layers)]
    for block in blocks:
        for parameter in block.parameters():
            if parameter.ndim == 2:
                nn.init.xavier_normal_(parameter)
    stack = Stack(blocks)
    x, target = torch.randn(64, 8, 32), torch.randn(64, 8, 32)
    (stack(x) * target).mean().backward()
    return blocks[-1].feedforward.contract.weight.grad.norm().item()


def test_pre_norm_gradients_shrink_with_depth_and_post_norm_gradients_do_not():
    """Xiong et al. 2020, theorem 1: the last layer's gradient is O(1/√L) for pre-norm, O(1) for post-norm."""
    pre = last_feedforward_gradient(PreNormBlock, 48) / last_feedforward_gradient(PreNormBlock, 6)
    post = last_feedforward_gradient(PostNormBlock, 48) / last_feedforward_gradient(PostNormBlock, 6)
    assert pre == pytest.approx((6 / 48) ** 0.5, rel=0.35)
    assert post > 0.7


def test_the_branch_is_built_anew_for_every_sublayer(x):
    block = build(PreNormBlock, decoder=True, branch=lambda: nn.Sequential(LayerScale(D, 0.0), StochasticDepth(0.1)))
    assert sum(isinstance(module, LayerScale) for module in block.modules()) == 3
    assert torch.equal(block(x, x), x), "a branch of zeros leaves the shortcut"


def test_memory_and_cross_attention_belong_together(x):
    with pytest.raises(FieldguideError, match="PreNormBlock needs memory"):
        build(PreNormBlock, decoder=True)(x)
    with pytest.raises(FieldguideError, match="PostNormBlock has no cross_attention for memory"):
        build(PostNormBlock)(x, x)


def test_tokens_of_another_width_are_named():
    with pytest.raises(FieldguideError, match=r"PreNormBlock was built for d_model=12, got tokens \(2, 7, 8\)"):
        build(PreNormBlock)(torch.zeros(2, 7, 8).double())


def test_a_stack_of_nothing_or_of_both_kinds_is_refused():
    for layers in ([], [build(PreNormBlock), build(PostNormBlock)]):
        with pytest.raises(FieldguideError, match="Stack: takes at least one block"):
            Stack(layers)


@pytest.mark.parametrize("kind", BLOCKS)
def test_exports_with_its_mask_inside(kind, x):
    block = kind(Attention(D, HEADS, mask=Causal()), FeedForward(D, D_FF)).double().eval()
    expected = block(x)
    program = torch.export.export(block, (x,))
    torch.testing.assert_close(program.module()(x), expected)
