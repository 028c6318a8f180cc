"""Convolutional blocks: convolution-norm-activation, and the residual blocks that are built of it.

b batch · c channels · h, w height and width. Every convolution pads so that stride 1 keeps the size.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn.functional import pad
from torch.nn.modules.batchnorm import _BatchNorm

from fieldguide.blocks.norms import Norm
from fieldguide.blocks.residual import StochasticDepth
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor

Activation = Callable[[], nn.Module]


class FeatureInfo(NamedTuple):
    """What to expect of one map in ``model.features(images)``."""

    channels: int
    stride: int
    """Input pixels per map pixel."""


def require_images(images: Tensor, *, in_channels: int, smallest: int, model: str) -> Tensor:
    """The images; :class:`FieldguideError` unless they are ``(b, in_channels, h, w)`` with sides ≥ ``smallest``."""
    if images.ndim == 4 and images.shape[1] == in_channels and min(images.shape[2:]) >= smallest:
        return images
    raise FieldguideError(
        f"{model} takes images (batch, {in_channels}, height, width) with sides of at least {smallest} pixels, "
        f"got {tuple(images.shape)}; resize them or create the model with another in_channels"
    )


def he_init(module: nn.Module) -> None:
    """Normal convolution weights of variance 2 / fan-out (He et al. 2015, eq. 14); for ``model.apply(he_init)``."""
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def relu() -> nn.Module:
    """A ReLU that overwrites its input, which saves a map of memory; for use after layers that do not keep it."""
    return nn.ReLU(inplace=True)


def relu6() -> nn.Module:
    """min(max(x, 0), 6), overwriting its input (Howard et al. 2017, for arithmetic of low precision)."""
    return nn.ReLU6(inplace=True)


class SameConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow does: ⌈h / stride⌉ rows come out, an odd pad goes below and to the right.

    With stride 1 and an odd kernel it equals a padded ``nn.Conv2d``; with stride 2 the windows lie one pixel further.
    """

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        missing = []
        for axis in (1, 0):  # functional.pad begins with the last axis
            length, stride = input.shape[axis + 2], self.stride[axis]
            reach = (-(-length // stride) - 1) * stride + self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            missing.append(max(reach - length, 0))
        right, below = missing
        padded = pad(input, (right // 2, right - right // 2, below // 2, below - below // 2))
        return nn.functional.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def follow_conventions(
    model: nn.Module, *, norm_eps: float, norm_momentum: float, padding: Literal["symmetric", "same"]
) -> None:
    """Give every batch norm its constants and every strided convolution its padding, in place; weights stay.

    Libraries disagree about these numbers, and no checkpoint holds them.
    """
    kind = {"symmetric": nn.Conv2d, "same": SameConv2d}[padding]
    for module in list(model.modules()):
        if isinstance(module, _BatchNorm):
            module.eps, module.momentum = norm_eps, norm_momentum
        for name, conv in module.named_children():
            if isinstance(conv, nn.Conv2d) and max(conv.stride) > 1 and type(conv) is not kind:
                setattr(module, name, _as(kind, conv))


def _as(kind: type[nn.Conv2d], conv: nn.Conv2d) -> nn.Conv2d:
    """The same convolution, with the same parameters, as another class."""
    shape = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)  # pyright: ignore
    with torch.device("meta"):
        twin = kind(*shape, conv.dilation, conv.groups, bias=conv.bias is not None)  # pyright: ignore
    twin.weight, twin.bias = conv.weight, conv.bias
    return twin.train(conv.training)


class Stages(nn.Sequential):
    """The stages of a network in turn; called, it gives the last map only."""

    def maps(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """What each stage puts out, finest first."""
        return [x := stage(x) for stage in self]


class ConvNormAct(nn.Sequential):
    """Convolution, normalisation, activation, ``(b, c, h, w) → (b, out_channels, ⌈h / stride⌉, ⌈w / stride⌉)``.

    The convolution has a bias only when ``norm`` is None. ``activation=None`` leaves the sum linear. ``kernel_size``
    and ``padding`` may be ``(height, width)``; without ``padding``, stride 1 keeps the size of odd kernels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int = 1,
        *,
        padding: int | tuple[int, int] | None = None,
        groups: int = 1,
        dilation: int = 1,
        norm: Norm | None = nn.BatchNorm2d,
        activation: Activation | None = relu,
    ):
        if in_channels % groups or out_channels % groups:
            raise FieldguideError(
                f"ConvNormAct: {in_channels} input and {out_channels} output channels cannot be split into {groups} "
                "groups; both must be multiples of groups"
            )
        if padding is None:
            height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
            padding = (dilation * (height - 1) // 2, dilation * (width - 1) // 2)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv"] = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=norm is None
        )
        if norm is not None:
            layers["norm"] = norm(out_channels)
        if activation is not None:
            layers["activation"] = activation()
        super().__init__(layers)


def projection(in_channels: int, out_channels: int, stride: int = 1, *, norm: Norm = nn.BatchNorm2d) -> nn.Module:
    """The shortcut of a residual block: identity where shapes agree, else a 1×1 convolution (He et al. 2016, eq. 2)."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return ConvNormAct(in_channels, out_channels, 1, stride, norm=norm, activation=None)


class BasicBlock(nn.Module):
    """relu(conv₃ₓ₃(conv₃ₓ₃(x)) + shortcut(x)), each convolution with its norm (He et al. 2016, fig. 5 left).

    ``shortcut`` builds the other branch from ``(in_channels, out_channels, stride)``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        groups: int = 1,
        norm: Norm = nn.BatchNorm2d,
        shortcut: Callable[[int, int, int], nn.Module] = projection,
    ):
        super().__init__()
        self.conv1 = ConvNormAct(in_channels, out_channels, 3, stride, groups=groups, norm=norm)
        self.conv2 = ConvNormAct(out_channels, out_channels, 3, groups=groups, norm=norm, activation=None)
        self.shortcut = shortcut(in_channels, out_channels, stride)
        self.activation = relu()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return self.activation(self.conv2(self.conv1(x)).add_(self.shortcut(x)))


class Bottleneck(nn.Module):
    """relu(restore₁ₓ₁(conv₃ₓ₃(reduce₁ₓ₁(x))) + shortcut(x)) (He et al. 2016, fig. 5 right).

    The stride sits on the 3×3, where the paper has it on the first 1×1: a quarter of the input is no longer thrown
    away unseen ("ResNet v1.5"). ``groups`` makes it ResNeXt's block (Xie et al. 2017, fig. 3c); ``gate`` is applied
    between the 3×3 and the last 1×1.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        *,
        inner_channels: int,
        groups: int = 1,
        dilation: int = 1,
        norm: Norm = nn.BatchNorm2d,
        gate: nn.Module | None = None,
        shortcut: Callable[[int, int, int], nn.Module] = projection,
    ):
        super().__init__()
        self.reduce = ConvNormAct(in_channels, inner_channels, 1, norm=norm)
        self.conv = ConvNormAct(inner_channels, inner_channels, 3, stride, groups=groups, dilation=dilation, norm=norm)
        self.gate = gate or nn.Identity()
        self.restore = ConvNormAct(inner_channels, out_channels, 1, norm=norm, activation=None)
        self.shortcut = shortcut(in_channels, out_channels, stride)
        self.activation = relu()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return self.activation(self.restore(self.gate(self.conv(self.reduce(x)))).add_(self.shortcut(x)))


class SqueezeExcitation(nn.Module):
    """Channels weighted by a small network of their means: x · σ(expand(δ(squeeze(mean x)))) (Hu et al. 2018, §3).

    ``activation`` is δ; ``gate`` is σ (MobileNetV3 has a hard sigmoid, Howard et al. 2019, §5.3).
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        *,
        activation: Activation = nn.ReLU,
        gate: Activation = nn.Sigmoid,
    ):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, hidden_channels, 1)
        self.activation = activation()
        self.expand = nn.Conv2d(hidden_channels, channels, 1)
        self.gate = gate()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        means = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.expand(self.activation(self.squeeze(means))))


class InvertedResidual(nn.Module):
    """x + project₁ₓ₁(depthwise(expand₁ₓ₁(x))): narrow ends, wide middle, linear output (Sandler et al. 2018, fig. 3b).

    The shortcut exists only where the shapes agree; ``hidden_channels == in_channels`` omits the expansion as the
    paper does. ``gate`` (squeeze-and-excitation) follows the depthwise convolution (MobileNetV3, EfficientNet);
    ``drop`` is the branch's stochastic-depth rate.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        hidden_channels: int,
        norm: Norm = nn.BatchNorm2d,
        activation: Activation = relu6,
        gate: nn.Module | None = None,
        drop: float = 0.0,
    ):
        super().__init__()
        hidden = hidden_channels
        widen = in_channels != hidden
        self.expand = ConvNormAct(in_channels, hidden, 1, norm=norm, activation=activation) if widen else nn.Identity()
        self.depthwise = ConvNormAct(
            hidden, hidden, kernel_size, stride, groups=hidden, norm=norm, activation=activation
        )
        self.gate = gate or nn.Identity()
        self.project = ConvNormAct(hidden, out_channels, 1, norm=norm, activation=None)
        self.drop = StochasticDepth(drop)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        y = self.project(self.gate(self.depthwise(self.expand(x))))
        return self.drop(y).add_(x) if self.residual else y
