"""Convolutional blocks: convolution-norm-activation, and the residual blocks that are built of it.

b batch · c channels · h, w height and width. Every convolution pads so that stride 1 keeps the size.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
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


class SiLU(nn.SiLU):
    """x · σ(x) (Elfwing et al. 2018, eq. 5), overwriting its input where no gradient will ask for it."""

    def forward(self, input: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        return nn.functional.silu(input, inplace=not input.requires_grad)


class Hardswish(nn.Hardswish):
    """x · relu6(x + 3) / 6 (Howard et al. 2019, §5.2), overwriting its input where no gradient will ask for it."""

    def forward(self, input: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        return nn.functional.hardswish(input, inplace=not input.requires_grad)


class ScaledTanh(nn.Module):
    """1.7159 · tanh(2x/3): f(±1) = ±1, where its curvature is greatest (LeCun et al. 1998, eq. 6 and appendix A)."""

    def forward(self, x: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        return 1.7159 * torch.tanh(x * (2 / 3))


def round_channels(channels: float) -> int:
    """The nearest multiple of 8, but never less than 90 % of ``channels``: how MobileNets and EfficientNets scale."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


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

    Unless ``bias`` says so, the convolution has one only when ``norm`` is None. ``activation=None`` leaves the sum
    linear. ``kernel_size`` and ``padding`` may be ``(height, width)``; without ``padding``, stride 1 keeps the size of
    odd kernels.
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
        bias: bool | None = None,
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
        bias = norm is None if bias is None else bias
        layers["conv"] = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=bias)
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


def subsample(in_channels: int, out_channels: int, stride: int = 1) -> nn.Module:
    """A shortcut without parameters: identity where shapes agree, else :class:`Subsample` (He et al. 2016, §3.3 A)."""
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    return Subsample(in_channels, out_channels, stride)


class Subsample(nn.Module):
    """Every ``stride``-th pixel, and as many channels of zeros before as after: ``(b, c, h, w) → (b, d, i, j)``."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        if out_channels < in_channels:
            raise FieldguideError(
                f"Subsample: {in_channels} channels cannot become {out_channels} by adding zeros; widths must not "
                "fall, or take a projection"
            )
        self.stride, self.before = stride, (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        return f"stride={self.stride}, channels {self.before} + c + {self.after}"


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


class TableConv2d(nn.Module):
    """A convolution whose every output map sees some input maps only (LeCun et al. 1998, table I), without padding.

    ``connections`` has the input maps of each output map. ``weight`` holds the connected kernels alone, so nothing
    else is trained or counted; the forward pass lays them into a dense kernel of zeros.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, in_channels: int, connections: Sequence[Sequence[int]], kernel_size: int):
        super().__init__()
        pairs = [(output, i) for output, inputs in enumerate(connections) for i in inputs]
        if any(not 0 <= i < in_channels for _, i in pairs):
            raise FieldguideError(f"TableConv2d: connections name maps that {in_channels} input channels do not have")
        for name, indices in zip(("rows", "columns"), zip(*pairs, strict=True), strict=True):
            self.register_buffer(name, torch.tensor(indices))
        self.in_channels, self.out_channels = in_channels, len(connections)
        bounds = torch.tensor([(len(inputs) * kernel_size**2) ** -0.5 for inputs in connections])
        weight = torch.empty(len(pairs), kernel_size, kernel_size).uniform_(-1, 1)
        self.weight = nn.Parameter(weight * bounds[self.rows, None, None])  # as PyTorch's: uniform within ±1/√fan-in
        self.bias = nn.Parameter(torch.empty(len(connections)).uniform_(-1, 1) * bounds)

    def kernel(self) -> Float[Tensor, "d c k k"]:
        """The dense kernel, zero where maps are not connected."""
        zeros = self.weight.new_zeros(self.out_channels, self.in_channels, *self.weight.shape[1:])
        return zeros.index_put((self.rows, self.columns), self.weight)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        return nn.functional.conv2d(x, self.kernel(), self.bias)


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


class DepthwiseSeparable(nn.Sequential):
    """pointwise₁ₓ₁(depthwise(x)): space and channels mixed one after the other (Howard et al. 2017, fig. 3 right)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        *,
        norm: Norm | None = nn.BatchNorm2d,
        activation: Activation = relu6,
    ):
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["depthwise"] = ConvNormAct(
            in_channels, in_channels, kernel_size, stride, groups=in_channels, norm=norm, activation=activation
        )
        layers["pointwise"] = ConvNormAct(in_channels, out_channels, 1, norm=norm, activation=activation)
        super().__init__(layers)


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


class FusedInvertedResidual(nn.Module):
    """x + project₁ₓ₁(expand(x)): one dense convolution for a 1×1 and a depthwise (Tan & Le 2021, fig. 2 right).

    The shortcut exists only where the shapes agree; with ``hidden_channels == in_channels`` the dense convolution goes
    to ``out_channels`` by itself. The activation is SiLU, because the sum may overwrite what it puts out.
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
        drop: float = 0.0,
    ):
        super().__init__()
        fused = in_channels == hidden_channels
        hidden = out_channels if fused else hidden_channels
        self.expand = ConvNormAct(in_channels, hidden, kernel_size, stride, norm=norm, activation=SiLU)
        self.project = nn.Identity() if fused else ConvNormAct(hidden, out_channels, 1, norm=norm, activation=None)
        self.drop = StochasticDepth(drop)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        y = self.project(self.expand(x))
        return self.drop(y).add_(x) if self.residual else y
