"""Weights laid out once as the fastest product wants them, instead of at every call (oneDNN's "prepacked" weights)."""

import copy
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from fieldguide.blocks.conv import SiLU
from fieldguide.blocks.decoding import prepared
from fieldguide.blocks.decoding.weights import ENGINES, Int8, Packed, Weight
from fieldguide.profile.tuning.candidate import Arguments, Candidate, Choice, Subject, swap
from fieldguide.profile.tuning.pairs import input_sizes, pairs
from fieldguide.profile.tuning.precision import Autocasting
from fieldguide.shapes import Float, Tensor

ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
    SiLU: ("swish", []),
    nn.Sigmoid: ("sigmoid", []),
}
"""What oneDNN computes in the same pass as a convolution, by its own name and numbers."""


@dataclass(frozen=True)
class PackedWeights(Candidate):
    """Linear layers and convolutions with prepacked weights; a convolution's activation runs in the same pass."""

    def __str__(self) -> str:
        return "packed weights"

    def refusal(self, subject: Subject, chosen: Choice) -> str | None:
        if subject.device.type != "cpu" or not torch.backends.mkldnn.is_available():
            return "oneDNN is for processors"
        if not subject.has(nn.Linear, nn.Conv2d):
            return "no linear layer or convolution"
        return "watched by hooks" if subject.watched else None

    def apply(self, model: nn.Module, arguments: Arguments) -> nn.Module:
        short = isinstance(model, Autocasting) and model.dtype == torch.bfloat16
        following, sizes = pairs(model, arguments), input_sizes(model, arguments)
        new: dict[nn.Module, nn.Module] = {}
        for conv in model.modules():
            if type(conv) is nn.Conv2d and conv in sizes and _can_be_packed(conv):
                activation = following.get(conv, conv)
                dtype = torch.bfloat16 if short else conv.weight.dtype
                new[conv] = PackedConv.of(conv, activation, dtype, sizes[conv])
                if type(activation) in ACTIVATIONS:
                    new[activation] = nn.Identity()
        return prepared(swap(model, new), PackedShort if short else Packed)


@dataclass(frozen=True)
class Int8Weights(Candidate):
    """Linear layers with weights of 8 bits, their inputs rounded on the way ("dynamic quantisation")."""

    def __str__(self) -> str:
        return "int8 weights"

    def refusal(self, subject: Subject, chosen: Choice) -> str | None:
        if subject.device.type != "cpu" or torch.backends.quantized.engine not in ENGINES:
            return "its kernels are for x86 processors"
        if not any(type(m) is nn.Linear and Int8.suits(m.weight) for m in subject.model.modules()):
            return "no linear layer in fp32"
        return "watched by hooks" if subject.watched else None

    def apply(self, model: nn.Module, arguments: Arguments) -> nn.Module:
        return prepared(model, Int8)


class PackedConv(nn.Conv2d):
    """A convolution, and perhaps the activation after it, in one pass over prepacked weights."""

    packed: Tensor
    activation: tuple[str, list[float]]

    @classmethod
    def of(cls, conv: nn.Conv2d, activation: nn.Module, dtype: torch.dtype, size: list[int]) -> "PackedConv":
        """``size`` is the input's, for which the layout is chosen; others are computed too, if more slowly."""
        twin = copy.copy(conv)
        twin.__class__ = cls
        assert isinstance(twin, PackedConv)
        twin.activation = ACTIVATIONS.get(type(activation), ("none", []))
        twin._parameters = dict(conv._parameters)
        twin.weight = nn.Parameter(conv.weight.to(dtype), requires_grad=False)
        if conv.bias is not None:
            twin.bias = nn.Parameter(conv.bias.to(dtype), requires_grad=False)
        twin.packed = torch.ops.mkldnn._reorder_convolution_weight(twin.weight, *twin._numbers, size)
        return twin

    @property
    def _numbers(self) -> tuple[list[int], list[int], list[int], int]:
        return list(map(int, self.padding)), list(self.stride), list(self.dilation), self.groups

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d i j"]:
        x = input.to(self.weight.dtype)
        return torch.ops.mkldnn._convolution_pointwise(x, self.packed, self.bias, *self._numbers, *self.activation, "")


class PackedShort(Packed):
    """What autocast computes, with the weights rounded to bf16 and packed beforehand."""

    @classmethod
    def dtypes(cls) -> tuple[torch.dtype, ...]:
        return (torch.float32,)

    def times(self, x: Float[Tensor, "*b i"], bias: Float[Tensor, "o"] | None) -> Float[Tensor, "*b o"]:
        bias = bias if bias is None else bias.bfloat16()
        return torch.ops.mkldnn._linear_pointwise(x.bfloat16(), self.blocks, bias, "none", [], "")

    @cached_property
    def blocks(self) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(self.plain.bfloat16().contiguous())


def _can_be_packed(conv: nn.Conv2d) -> bool:
    plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return plain and conv.weight.dtype in (torch.float32, torch.bfloat16) and not isinstance(conv.weight, Weight)
