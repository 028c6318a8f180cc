"""ViT against torchvision's and timm's, in float64."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.models.vision.vit import ViT, ViTConfig

SMALL = ViTConfig(
    image_size=32, patch_size=8, d_model=48, num_layers=3, num_heads=4, d_ff=80, num_classes=7, in_channels=3
)


def jitter(model: nn.Module) -> nn.Module:
    """Random values for everything, or zero biases and unit norms would hide a wrong place."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3) if parameter.ndim < 2 else nn.init.normal_(parameter, std=0.15)
    return model.double().eval()


def layer_weights(state, fused: str, output: str, norms: tuple[str, str], mlp: tuple[str, str], i: int):
    ours = f"encoder.layers.{i}"
    for kind in ("weight", "bias"):
        rows = state[fused.format(i=i, kind=kind)].chunk(3)
        for part, tensor in zip(("query", "key", "value"), rows, strict=True):
            yield f"{ours}.attention.{part}.{kind}", tensor
        yield f"{ours}.attention.output.{kind}", state[f"{output.format(i=i)}.{kind}"]
        for name, other in zip(("attention_norm", "feedforward_norm"), norms, strict=True):
            yield f"{ours}.{name}.{kind}", state[f"{other.format(i=i)}.{kind}"]
        for name, other in zip(("expand", "contract"), mlp, strict=True):
            yield f"{ours}.feedforward.{name}.{kind}", state[f"{other.format(i=i)}.{kind}"]


def frame_weights(state, token: str, positions: str, patches: str, norm: str, head: str):
    yield "class_token", state[token].flatten()
    yield "positions.weight", state[positions].squeeze(0)
    for kind in ("weight", "bias"):
        yield f"patches.projection.{kind}", state[f"{patches}.{kind}"]
        yield f"encoder.norm.{kind}", state[f"{norm}.{kind}"]
        yield f"head.{kind}", state[f"{head}.{kind}"]


def torchvisions():
    c = SMALL
    theirs = torchvision.models.VisionTransformer(
        c.image_size, c.patch_size, c.num_layers, c.num_heads, c.d_model, c.d_ff, num_classes=c.num_classes
    )
    state = jitter(theirs).state_dict()
    layer = "encoder.layers.encoder_layer_{i}"
    new = dict(frame_weights(state, "class_token", "encoder.pos_embedding", "conv_proj", "encoder.ln", "heads.head"))
    for i in range(c.num_layers):
        new |= layer_weights(
            state,
            f"{layer}.self_attention.in_proj_{{kind}}",
            f"{layer}.self_attention.out_proj",
            (f"{layer}.ln_1", f"{layer}.ln_2"),
            (f"{layer}.mlp.0", f"{layer}.mlp.3"),
            i,
        )
    return theirs, new


def timms():
    c = SMALL
    timm = pytest.importorskip("timm.models.vision_transformer")
    theirs = timm.VisionTransformer(
        c.image_size, c.patch_size, 3, c.num_classes, "token", c.d_model, c.num_layers, c.num_heads, c.d_ff / c.d_model
    )
    state = jitter(theirs).state_dict()
    layer = "blocks.{i}"
    new = dict(frame_weights(state, "cls_token", "pos_embed", "patch_embed.proj", "norm", "head"))
    for i in range(c.num_layers):
        new |= layer_weights(
            state,
            f"{layer}.attn.qkv.{{kind}}",
            f"{layer}.attn.proj",
            (f"{layer}.norm1", f"{layer}.norm2"),
            (f"{layer}.mlp.fc1", f"{layer}.mlp.fc2"),
            i,
        )
    return theirs, new


@pytest.mark.parametrize("oracle", [torchvisions, timms])
def test_equals_the_oracle(oracle):
    theirs, weights = oracle()
    ours = ViT(SMALL).double().eval()
    ours.load_state_dict(weights)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(x)
        assert (ours(x) - expected).abs().max() / expected.abs().max() < 1e-10
        assert (theirs(x.flip(0)) - expected).abs().max() / expected.abs().max() > 0.01, "the output follows the input"
        single = ours.float()(x.float())
        assert (single - expected).abs().max() / expected.abs().max() < 1e-5


def test_the_class_token_does_not_care_in_which_order_patches_come_if_positions_move_along():
    model = jitter(ViT(SMALL))
    order = torch.randperm(16)
    patches = torch.randn(1, 16, SMALL.d_model, dtype=torch.float64)
    positions = model.positions.weight[1:]
    first = model.positions.weight[:1].expand(1, -1, -1)
    straight = model.encoder(torch.cat((first, patches + positions), 1))
    shuffled = model.encoder(torch.cat((first, (patches + positions)[:, order]), 1))
    torch.testing.assert_close(straight[:, 0], shuffled[:, 0], rtol=0, atol=1e-10)


def test_starts_as_the_paper_says():
    torch.manual_seed(0)
    model = ViT(ViTConfig())
    assert not model.class_token.any()
    assert model.positions.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert model.patches.projection.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert isinstance(model.encoder.norm, nn.LayerNorm), "pre-norm layers end in a norm"
    assert model.encoder.layers[0].attention_norm.eps == 1e-6


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model, x = ViT(replace(SMALL, dropout=0.3)), torch.randn(1, 3, 32, 32)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(FieldguideError, match="image_size=30 is not a multiple of patch_size=8; use image_size=32"):
        ViT(ViTConfig(image_size=30, patch_size=8))
    with pytest.raises(FieldguideError, match="d_model=50"):
        ViT(ViTConfig(d_model=50, num_heads=4))
    with pytest.raises(FieldguideError, match=r"takes images \(batch, 3, 32, 32\), got \(1, 3, 28, 28\)"):
        ViT(SMALL)(torch.zeros(1, 3, 28, 28))
