"""A network made ready to generate: a copy of its modules that shares its parameters and takes fewer, faster steps.

The network itself is not touched: it trains, saves and is pickled as before. The copy computes the same, in another
order of sums, and is meant for prediction only.

b batch · n tokens · d model width · h heads · q/k query/key length.
"""

import copy
from functools import cached_property
from typing import TypeVar

import torch
from torch import nn

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.biases import RelativeBuckets
from fieldguide.blocks.decoding.weights import Packed, Weight
from fieldguide.shapes import Float, Tensor

Network = TypeVar("Network", bound=nn.Module)


def prepared(model: Network, weights: type[Weight] = Packed) -> Network:
    """The same network, ready to generate: a copy of its modules with its parameters.

    Its plain linear layers and tables get weights of the kind ``weights``; attention forms queries, keys and values in
    one product; dropout is gone. Layers of other classes (adapters), types that the kind does not know and other
    devices keep theirs. What is changed in the network later may or may not show: prepare it again. Takes memory for a
    second set of the weights until it is let go. A network that someone watches by
    hooks, or that is prepared already, is given back itself.

        fast = prepared(model, Int8)
        fast.generate(prompt, max_new_tokens=100)
    """
    watched = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    ready = any(isinstance(weight, Weight) for weight in model.parameters())
    return model if watched or ready else _Copies(weights).of(model).eval()


class _Copies:
    """Of modules and weights; one that is used in two places is copied once."""

    def __init__(self, weights: type[Weight]):
        self.weights = weights
        self._modules: dict[nn.Module, nn.Module] = {}
        self._tensors: dict[Tensor, Weight] = {}

    def of(self, module: Network) -> Network:
        if module not in self._modules:
            self._modules[module] = self._copied(module)
        return self._modules[module]  # pyright: ignore[reportReturnType]

    def _copied(self, module: nn.Module) -> nn.Module:
        if isinstance(module, nn.Dropout):
            return nn.Identity()
        twin = copy.copy(module)
        twin.__class__ = self._quick(module)
        twin._modules = {name: child and self.of(child) for name, child in module._modules.items()}
        twin._parameters = dict(module._parameters)
        if self._is_plain(module) or isinstance(module, nn.Embedding):
            twin._parameters["weight"] = self._weight(module.weight)  # pyright: ignore[reportArgumentType]
        return twin

    def _quick(self, module: nn.Module) -> type[nn.Module]:
        """The class of a module's copy."""
        if type(module) is RelativeBuckets:
            return _RecentBuckets
        if type(module) is nn.RMSNorm and module.weight is not None:
            return _ShortNorm
        if self._is_plain(module):
            return _QuickLinear
        if type(module) is Attention and module.d_model == module.memory_dim:
            parts = (module.query, module.key, module.value)
            return _JointAttention if all(self._is_plain(part) for part in parts) else Attention
        return type(module)

    def _is_plain(self, layer: nn.Module) -> bool:
        return type(layer) is nn.Linear and self.weights.suits(layer.weight)

    def _weight(self, weight: nn.Parameter) -> Tensor:
        if not self.weights.suits(weight):
            return weight
        return self._tensors.setdefault(weight, self.weights.of(weight))


class _QuickLinear(nn.Linear):
    """Asks its weight at once: PyTorch finds out in ten times as long whom to ask."""

    weight: Weight  # pyright: ignore[reportIncompatibleVariableOverride]

    def forward(self, input: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        return self.weight.times(input, self.bias)


class _ShortNorm(nn.RMSNorm):
    """The same norm in fewer operations, each of which costs more than its arithmetic."""

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        width = self.normalized_shape[-1]
        if len(self.normalized_shape) > 1 or x.is_cuda or x.dtype not in (torch.float32, torch.float64):
            return super().forward(x)
        eps = torch.finfo(x.dtype).eps if self.eps is None else self.eps
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * (length * length).div_(width).add_(eps).rsqrt_() * self.weight


class _JointAttention(Attention):
    """Queries, keys and values of a sequence by one product."""

    def _queries_keys_values(self, x: Float[Tensor, "b n d"]) -> tuple[Tensor, Tensor, Tensor]:
        heads = self._heads(self._joint.times(x, self._joint_bias))
        q, k, v = heads.split((self.num_heads, self.num_kv_heads, self.num_kv_heads), 1)
        return self.query_norm(q), self.key_norm(k), v

    @cached_property
    def _joint(self) -> Weight:
        q, k, v = self.query.weight, self.key.weight, self.value.weight
        return type(q).of(torch.cat([q, k, v]))  # pyright: ignore[reportAttributeAccessIssue]

    @cached_property
    def _joint_bias(self) -> Tensor | None:
        parts = (self.query, self.key, self.value)
        if all(part.bias is None for part in parts):
            return None
        empty = self.query.weight.new_zeros
        return torch.cat([empty(part.out_features) if part.bias is None else part.bias for part in parts])


class _RecentBuckets(RelativeBuckets):
    """Scores of the last query, kept for all shorter texts: they depend on the distance alone."""

    _line: Tensor | None = None

    def forward(self, q_len: int, k_len: int, *, device: torch.device | str | None = None) -> Float[Tensor, "b h q k"]:
        if q_len > 1:
            return super().forward(q_len, k_len, device=device)
        if self._line is None or self._line.shape[-1] < k_len:
            self._line = super().forward(1, 2 * k_len, device=device)
        return self._line[..., -k_len:]
