"""Convolutional blocks against torchvision's and their equations."""

import itertools

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.efficientnet import FusedMBConv, FusedMBConvConfig
from torchvision.models.mobilenetv2 import InvertedResidual as TheirInvertedResidual
from torchvision.models.resnet import BasicBlock as TheirBasicBlock
from torchvision.models.resnet import Bottleneck as TheirBottleneck

from fieldguide.blocks import conv
from fieldguide.blocks.conv import (
    BasicBlock,
    Bottleneck,
    ConvNormAct,
    DepthwiseSeparable,
    FusedInvertedResidual,
    Hardswish,
    InvertedResidual,
    SameConv2d,
    SiLU,
    SqueezeExcitation,
)
from fieldguide.blocks.norms import GroupNorm
from fieldguide.errors import FieldguideError


def same_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Copy by order; both list their tensors in the order of computation, the shortcut last."""
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, 0.3, 0.3)
    for name, buffer in theirs.named_buffers():
        if name.endswith(("mean", "var")):
            nn.init.uniform_(buffer, 0.5, 1.5)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))


def agree(ours: nn.Module, theirs: nn.Module, x: torch.Tensor) -> None:
    same_weights(ours.double(), theirs.double())
    for mode in (True, False):
        expected = theirs.train(mode)(x)
        torch.testing.assert_close(ours.train(mode)(x.clone()), expected, rtol=1e-12, atol=1e-12)
    assert (theirs(x.flip(0)) - expected).abs().max() > 1e-3, "the comparison must be able to fail"


def shortcut(inputs, outputs, stride):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(3, 8, 9, 9, dtype=torch.float64)


@pytest.mark.parametrize(("outputs", "stride"), [(8, 1), (16, 1), (8, 2), (16, 2)])
def test_basic_block(x, outputs, stride):
    down = None if (outputs, stride) == (8, 1) else shortcut(8, outputs, stride)
    agree(BasicBlock(8, outputs, stride), TheirBasicBlock(8, outputs, stride, down), x)


@pytest.mark.parametrize(("outputs", "stride", "groups"), [(8, 1, 1), (16, 1, 1), (16, 2, 1), (16, 2, 4)])
def test_bottleneck(x, outputs, stride, groups):
    down = None if (outputs, stride) == (8, 1) else shortcut(8, outputs, stride)
    theirs = TheirBottleneck(8, outputs // 4, stride, down, groups, base_width=64)
    inner = theirs.conv2.in_channels
    agree(Bottleneck(8, outputs, stride, inner_channels=inner, groups=groups), theirs, x)


@pytest.mark.parametrize(("outputs", "stride", "expand"), [(8, 1, 1), (8, 1, 6), (12, 1, 6), (8, 2, 6)])
def test_inverted_residual(x, outputs, stride, expand):
    ours = InvertedResidual(8, outputs, stride=stride, hidden_channels=8 * expand)
    agree(ours, TheirInvertedResidual(8, outputs, stride, expand), x)


@pytest.mark.parametrize(("outputs", "stride", "expand"), [(8, 1, 1), (16, 2, 1), (8, 1, 4), (12, 1, 4), (8, 2, 4)])
def test_fused_inverted_residual(x, outputs, stride, expand):
    theirs = FusedMBConv(FusedMBConvConfig(expand, 3, stride, 8, outputs, 1), 0.0, nn.BatchNorm2d)
    agree(FusedInvertedResidual(8, outputs, stride=stride, hidden_channels=8 * expand), theirs, x)


def test_a_separable_convolution_is_a_dense_one_whose_weight_is_a_product(x):
    block = DepthwiseSeparable(8, 12, 3, 2, norm=None, activation=nn.Identity).double()
    depthwise, pointwise = block.depthwise.conv, block.pointwise.conv
    nn.init.zeros_(depthwise.bias)
    product = pointwise.weight * depthwise.weight[:, 0]  # (12, 8, 1, 1) · (8, 3, 3)
    dense = nn.functional.conv2d(x, product, pointwise.bias, stride=2, padding=1)
    torch.testing.assert_close(block(x), dense, rtol=1e-12, atol=1e-12)


def test_squeeze_excitation(x):
    agree(SqueezeExcitation(8, 2), torchvision.ops.SqueezeExcitation(8, 2), x)


@pytest.mark.parametrize("block", [BasicBlock(8, 8), Bottleneck(8, 8, inner_channels=4)], ids=["basic", "bottleneck"])
def test_a_block_is_not_linear(block, x):
    """Convolutions with a sum around them but no activation between would be: f(x + y) = f(x) + f(y) − f(0)."""
    block.double().eval()
    y, zero = torch.randn_like(x), torch.zeros_like(x)
    assert (block(x + y) - block(x) - block(y) + block(zero)).abs().max() > 0.1


def test_zero_last_gamma_makes_a_block_the_identity(x):
    block = BasicBlock(8, 8).double()
    nn.init.zeros_(block.conv2.norm.weight)
    assert torch.equal(block(x.abs()), x.abs())


def test_a_change_of_shape_has_registered_projection_parameters():
    assert [name for name, _ in BasicBlock(8, 8).named_parameters() if "shortcut" in name] == []
    for block in (BasicBlock(8, 8, 2), BasicBlock(8, 16), Bottleneck(8, 8, 2, inner_channels=4)):
        assert any(name.startswith("shortcut.conv") for name, _ in block.named_parameters())


def test_subsampling_keeps_every_second_pixel_between_zeros(x):
    y = conv.subsample(8, 13, 2)(x)
    assert y.shape == (3, 13, 5, 5)
    assert torch.equal(y[:, 2:10], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 10:].any()
    assert torch.equal(conv.subsample(8, 8)(x), x)
    assert not list(BasicBlock(8, 16, 2, shortcut=conv.subsample).shortcut.parameters())


def test_the_stride_of_a_bottleneck_is_on_the_three_by_three():
    block = Bottleneck(8, 16, 2, inner_channels=4)
    assert [layer.conv.stride for layer in (block.reduce, block.conv, block.restore)] == [(1, 1), (2, 2), (1, 1)]


@pytest.mark.parametrize(("ours", "theirs"), [(SiLU, nn.SiLU), (Hardswish, nn.Hardswish)])
def test_smooth_activations_overwrite_only_what_no_gradient_needs(ours, theirs, x):
    expected = theirs()(x)
    kept = x.clone().requires_grad_()
    assert torch.equal(ours()(kept), expected)
    assert torch.equal(kept, x)
    (gradient,) = torch.autograd.grad(ours()(kept * 1).sum(), kept)
    assert torch.equal(gradient, torch.autograd.grad(theirs()(kept).sum(), kept)[0])
    assert ours()(x) is x
    assert torch.equal(x, expected)


def test_channels_are_rounded_to_multiples_of_eight_but_never_down_by_more_than_a_tenth():
    for channels in range(1, 400):
        rounded = conv.round_channels(float(channels))
        assert rounded % 8 == 0
        assert rounded >= 0.9 * channels
        assert abs(rounded - channels) <= 4 or rounded - 8 < 0.9 * channels
    assert [conv.round_channels(0.75 * channels) for channels in (16, 24, 32, 96)] == [16, 24, 24, 72]


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 1, 1), (3, 1, 1), (3, 2, 1), (5, 2, 1), (3, 1, 4)])
def test_size_is_divided_by_the_stride_rounded_up(kernel, stride, dilation):
    layer = ConvNormAct(2, 4, kernel, stride, dilation=dilation)
    for side in (9, 10, 16):
        assert layer(torch.zeros(2, 2, side, side)).shape == (2, 4, -(-side // stride), -(-side // stride))


def test_parts_of_conv_norm_act():
    assert list(ConvNormAct(2, 4).state_dict()) == [
        "conv.weight",
        *(f"norm.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    ]
    bare = ConvNormAct(2, 4, norm=None, activation=None)
    assert bare.conv.bias is not None
    assert bare(torch.randn(1, 2, 5, 5)).min() < 0


def test_norm_and_gate_are_the_callers_choice(x):
    gate = SqueezeExcitation(4, 2)
    block = Bottleneck(8, 8, inner_channels=4, norm=lambda channels: GroupNorm(2, channels), gate=gate).double()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in block.modules())
    before = block(x)
    nn.init.constant_(gate.expand.bias, -50)  # shuts every channel: only the restoring norm's shift is left
    assert not torch.allclose(before, block(x))


def test_stochastic_depth_drops_the_branch_of_some_samples():
    torch.manual_seed(0)
    block = InvertedResidual(4, 4, hidden_channels=8, drop=0.5)
    nn.init.ones_(block.project.norm.bias)
    x = torch.randn(64, 4, 5, 5)
    unchanged = (block(x) == x).flatten(1).all(1).float().mean()
    assert 0.3 < unchanged < 0.7


def test_he_init_has_variance_two_over_fan_out():
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 128, 3, stride=2)
    conv.he_init(layer)
    assert layer.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


def test_groups_that_do_not_divide_are_named():
    with pytest.raises(FieldguideError, match="6 input and 8 output channels cannot be split into 4 groups"):
        ConvNormAct(6, 8, groups=4)


@pytest.mark.parametrize("shape", [(3, 9, 9), (2, 1, 9, 9), (2, 3, 9, 4)])
def test_images_that_do_not_fit_are_named(shape):
    with pytest.raises(FieldguideError, match=r"Net takes images \(batch, 3, height, width\) .* at least 8 .* got \("):
        conv.require_images(torch.zeros(shape), in_channels=3, smallest=8, model="Net")


@pytest.mark.parametrize(
    "block",
    [
        BasicBlock(8, 16, 2),
        Bottleneck(8, 16, 2, inner_channels=4, gate=SqueezeExcitation(4, 2)),
        InvertedResidual(8, 8, hidden_channels=16, drop=0.2),
    ],
    ids=["basic", "bottleneck", "inverted"],
)
def test_exports(block, x):
    block.double().eval()
    expected = block(x)
    torch.testing.assert_close(torch.export.export(block, (x,)).module()(x), expected)


SAME = {"kernel_size": [(1, 1), (3, 3), (2, 5)], "stride": [1, 2, 3], "dilation": [1, 2], "side": [8, 9]}


@pytest.mark.parametrize(("kernel_size", "stride", "dilation", "side"), [*itertools.product(*SAME.values())])
def test_same_convolution_pads_as_tensorflow_does(kernel_size, stride, dilation, side):
    """By definition: ⌈side / stride⌉ windows, in the middle of the image, the odd pixel to the right and below."""
    layer = SameConv2d(2, 3, kernel_size, stride, dilation=dilation).double()
    x = torch.randn(2, 2, side, side + 3, dtype=torch.float64)
    windows = [-(-length // stride) for length in x.shape[2:]]
    before = [
        max((count - 1) * stride + dilation * (kernel - 1) + 1 - length, 0) // 2
        for count, kernel, length in zip(windows, kernel_size, x.shape[2:], strict=True)
    ]
    far = nn.functional.pad(x, (30, 30, 30, 30))
    expected = layer.bias.expand(2, *windows, 3).permute(0, 3, 1, 2).clone()
    for i, j in itertools.product(*map(range, windows)):
        for u, v in itertools.product(*map(range, kernel_size)):
            row = 30 - before[0] + i * stride + dilation * u
            column = 30 - before[1] + j * stride + dilation * v
            expected[:, :, i, j] += far[:, :, row, column] @ layer.weight[:, :, u, v].T
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "stride", "side"), [(3, 1, 9), (3, 2, 8), (3, 2, 9), (5, 2, 16), (2, 2, 7)])
def test_same_convolution_equals_timms(kernel, stride, side):
    theirs = pytest.importorskip("timm.layers").Conv2dSame(8, 4, kernel, stride, groups=2).double()
    ours = SameConv2d(8, 4, kernel, stride, groups=2).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 8, side, side, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def follow(model: nn.Module, padding: str) -> None:
    conv.follow_conventions(model, norm_eps=1e-3, norm_momentum=0.01, padding=padding)


def network() -> nn.Sequential:
    strided = ConvNormAct(8, 4, 5, 2, groups=2)
    return nn.Sequential(strided, ConvNormAct(4, 4), nn.Conv2d(4, 2, 3, (1, 2), 1, bias=True)).double()


@pytest.mark.parametrize("mode", [True, False])
def test_following_another_library_changes_constants_and_padding_and_back(x, mode):
    model = network().train(mode)
    x = x[..., :8, :8]
    symmetric, parameters = model.eval()(x), list(model.parameters())
    follow(model.train(mode), "same")
    assert [type(layer) for layer in model.modules() if isinstance(layer, nn.Conv2d)] == [
        *[SameConv2d, nn.Conv2d, SameConv2d]
    ]
    assert {(layer.eps, layer.momentum) for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)} == {
        (1e-3, 0.01)
    }
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert {layer.training for layer in model.modules()} == {mode}
    assert model.eval()(x).shape == symmetric.shape
    assert not torch.allclose(model(x), symmetric, atol=0.01)
    conv.follow_conventions(model.train(mode), norm_eps=1e-5, norm_momentum=0.1, padding="symmetric")
    assert not any(isinstance(layer, SameConv2d) for layer in model.modules())
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert {layer.training for layer in model.modules()} == {mode}
    assert torch.equal(model.eval()(x), symmetric)


def test_following_changes_no_layer_that_is_as_it_should_be():
    model = network()
    layers = list(model.modules())
    follow(model, "symmetric")
    assert all(one is other for one, other in zip(model.modules(), layers, strict=True))
    follow(model, "same")
    layers = list(model.modules())
    follow(model, "same")
    assert all(one is other for one, other in zip(model.modules(), layers, strict=True))
