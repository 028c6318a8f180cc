"""LoRA: a pretrained layer learns a change of low rank and keeps its weight.

Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", eq. 3: h = W₀x + (α / r) B A x, B zero at first.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import nn

from fieldguide.blocks.conv import SameConv2d
from fieldguide.blocks.freezing import freeze
from fieldguide.blocks.selection import select
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Float, Tensor

Plain = nn.Linear | nn.Conv2d


def lora(model: nn.Module, pattern: str, *, rank: int = 8, alpha: float = 8.0, dropout: float = 0.0) -> tuple[str, ...]:
    """Adapts the linear layers and convolutions that a pattern (``blocks.selection``) selects, in place; their names.

    Everything but the adapters is frozen, norms with running statistics included; ``unfreeze(model, "head")`` lets a
    new head learn as well. The network computes the same as before until the first step. ``alpha`` stays fixed when
    ``rank`` is tried out (§4.1); a rank above a layer's own is cut to that, the factor α / r stays. ``dropout`` acts on
    the adapters' input. A convolution's A is a convolution of the same kind to ``rank`` maps (in each of its groups)
    and B is 1×1.

    The state dict keeps all names and gains ``<layer>.down.weight`` (A) and ``<layer>.up.weight`` (B). Load pretrained
    weights before, call :func:`merge_lora` after.

    Raises FieldguideError for numbers out of range, a pattern that selects no such layer, layers with a forward of
    their own, or a model with adapters.
    """
    if rank < 1 or not 0 <= dropout < 1:
        raise FieldguideError(f"lora: rank={rank} must be at least 1, and dropout={dropout} at least 0 and below 1")
    if has_adapters(model):
        raise FieldguideError("lora: the model has adapters already; fold them in with merge_lora(model) first")
    layers = select(model, pattern, nn.Linear, nn.Conv2d)
    for name, layer in layers.items():
        if type(layer) not in _ADAPTED:
            kind = type(layer).__name__
            raise FieldguideError(f"lora: {name} is a {kind}, which may be used without its forward; leave it out")
    freeze(model)
    for layer in dict.fromkeys(layers.values()):
        layer.__class__ = _ADAPTED[type(layer)]
        layer.adapt(rank, alpha / rank, dropout)  # pyright: ignore[reportAttributeAccessIssue,reportCallIssue]
    return tuple(layers)


def merge_lora(model: nn.Module) -> tuple[str, ...]:
    """Adds every adapter to the weight it adapts, W₀ + (α / r) B A, and takes it away; the names of the layers.

    The layers are what they were before, still frozen; a weight that was shared with another layer no longer is.
    """
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, _Adapted)}
    for layer in adapted.values():
        layer.merge()
    return tuple(adapted)


def has_adapters(model: nn.Module) -> bool:
    """Whether :func:`lora` was here and :func:`merge_lora` was not."""
    return any(isinstance(module, _Adapted) for module in model.modules())


class _Adapted(nn.Module):
    """What a layer becomes when it is given another class: itself plus a path of low rank.

    It keeps its names, its attributes, its hooks and its places in the model.
    """

    plain: ClassVar[Any]
    weight: nn.Parameter
    down: Plain
    up: Plain

    def adapt(self, rank: int, scale: float, dropout: float) -> None:
        self.scale, self.dropout = scale, nn.Dropout(dropout)
        _, fan_out, fan_in = self._by_group(self.weight).shape
        down, up = self._pair(min(rank, fan_in, fan_out))  # A as PyTorch starts a layer, as the authors' code has it
        self.down, self.up = down.to(self.weight), up.to(self.weight)
        nn.init.zeros_(self.up.weight)
        self.train(self.training)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.add(super().forward(x), self.up(self.down(self.dropout(x))), alpha=self.scale)

    def merge(self) -> None:
        change = self._by_group(self.up.weight) @ self._by_group(self.down.weight) * self.scale
        merged = (self.weight + change.view_as(self.weight)).detach()
        self.weight = nn.Parameter(merged, requires_grad=self.weight.requires_grad)
        del self.down, self.up, self.dropout, self.scale
        self.__class__ = self.plain

    @abstractmethod
    def _pair(self, rank: int) -> tuple[Plain, Plain]:
        """The layers A and B of a rank."""

    def _by_group(self, weight: Tensor) -> Float[Tensor, "groups outputs inputs"]:
        return weight.detach().flatten(1).unflatten(0, (getattr(self, "groups", 1), -1))


class LoRALinear(_Adapted, nn.Linear):
    plain = nn.Linear

    def _pair(self, rank: int) -> tuple[Plain, Plain]:
        return nn.Linear(self.in_features, rank, bias=False), nn.Linear(rank, self.out_features, bias=False)


class LoRAConv2d(_Adapted, nn.Conv2d):
    plain = nn.Conv2d

    def _pair(self, rank: int) -> tuple[Plain, Plain]:
        width = rank * self.groups
        shape = (self.in_channels, width, self.kernel_size, self.stride, self.padding)
        down = self.plain(*shape, self.dilation, self.groups, bias=False, padding_mode=self.padding_mode)
        return down, nn.Conv2d(width, self.out_channels, 1, groups=self.groups, bias=False)


class LoRASameConv2d(LoRAConv2d, SameConv2d):
    plain = SameConv2d


_ADAPTED: dict[Any, Any] = {kind.plain: kind for kind in (LoRALinear, LoRAConv2d, LoRASameConv2d)}
