"""What flows through the layers in one step: sizes, zeros, saturation. Hooks that are there for sampled steps only."""

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

LOOKED = 1 << 17  # numbers of an activation that are looked at
_SLOPE = 0.01  # of the largest slope, below which a unit counts as saturated


def leaves(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules that have parameters of their own, by name."""
    for name, module in model.named_modules():
        if own(module):
            yield name or type(module).__name__, module


def own(module: nn.Module) -> list[nn.Parameter]:
    """Its parameters without those of modules inside; asked of every layer at every sample, so without iterators."""
    return [parameter for parameter in module._parameters.values() if parameter is not None]


class LayerWatch:
    """Between ``open`` and ``close``, the last forward pass of each layer leaves its figures in ``signs``."""

    def __init__(self) -> None:
        self.signs: dict[str, dict[str, Tensor | str]] = {}
        self.order: list[tuple[str, nn.Module]] = []
        self.cost = 0.0
        """Seconds spent on looking."""
        self._handles: list[RemovableHandle] = []

    def open(self, models: list[nn.Module]) -> None:
        self.close()
        self.signs, self.order = {}, []
        for model in models:
            for name, module in leaves(model):
                self._handles.append(module.register_forward_hook(self._hook(name, module)))

    def close(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _hook(self, name: str, watched: nn.Module) -> Any:
        def look(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if module is not watched or not torch.is_grad_enabled():  # a copy of the network takes its hooks along
                return
            started = perf_counter()
            with torch.no_grad():
                if name not in self.signs:
                    self.order.append((name, module))
                signs: dict[str, Tensor | str] = {"type": type(module).__name__}
                x = args[0] if args else None
                if isinstance(x, Tensor) and x.is_floating_point() and x.numel() and x.ndim > 1:
                    signs |= _input(x)
                y = output[0] if isinstance(output, tuple) and output else output
                if isinstance(y, Tensor) and y.is_floating_point() and y.numel() and y.ndim:
                    y = _some(y)
                    signs["output"] = _rms(y)
                    if y.ndim == 3 and y.shape[1] > 1 and not isinstance(module, nn.modules.conv._ConvNd):
                        signs["similarity"] = _similarity(y)
                self.signs[name] = signs
            self.cost += perf_counter() - started

        return look


def _some(x: Tensor) -> Tensor:
    """The first samples of a large batch: enough for shares and sizes."""
    return x[: max(1, len(x) * LOOKED // x.numel())] if x.numel() > LOOKED else x


def _input(given: Tensor) -> dict[str, Tensor]:
    x, maker = _some(given.detach()), type(given.grad_fn).__name__
    apart = (0, *range(2, x.ndim)) if x.ndim >= 4 else range(x.ndim - 1)  # from the axis of the units
    largest = x.abs().amax(tuple(apart))
    signs = {"input": _rms(x), "zeros": _zeros(x), "dead": _zeros(largest)}
    if maker.startswith("Tanh"):
        signs["saturated"] = _share(1 - x * x < _SLOPE)
    elif maker.startswith("Sigmoid"):
        signs["saturated"] = _share(x * (1 - x) < _SLOPE / 4)
    return signs


def _zeros(x: Tensor) -> Tensor:
    """Their share; as floats, which PyTorch's processor kernels compare several times as fast as into booleans."""
    return torch.eq(x, 0, out=torch.empty_like(x, dtype=torch.float32)).mean()


def _share(true: Tensor) -> Tensor:
    return true.count_nonzero() / true.numel()


def _rms(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.detach(), dtype=torch.float32) / x.numel() ** 0.5


def _similarity(y: Tensor) -> Tensor:
    """Mean cosine between two positions of a sequence, over at most four sequences."""
    unit = torch.nn.functional.normalize(y[:4].detach().float(), dim=-1)
    n = unit.shape[1]
    return ((unit.sum(1).square().sum(-1) - n) / (n * (n - 1))).mean()
