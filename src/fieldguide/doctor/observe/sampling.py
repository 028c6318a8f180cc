"""The figures of one optimizer step: sizes of weights, gradients and updates, with one copy from device to host."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, _foreach_mul, _foreach_norm, _foreach_sub  # pyright: ignore[reportPrivateImportUsage]

from fieldguide.doctor.observe.layers import LayerWatch, own
from fieldguide.trace import Record

Optimizer = torch.optim.Optimizer
WHOLE = 100_000  # numbers up to which updates are measured on all parameters, above it on a fixed draw of them
MARK = 1 << 12  # and at least so many of each


class StepFigures:
    """``before`` a step and ``after`` it; what was measured is fetched by ``fetch``."""

    @torch.no_grad()
    def __init__(self, optimizer: Optimizer):
        self.optimizer = optimizer
        self.parameters = [p for group in optimizer.param_groups for p in group["params"] if not p.is_sparse]
        self.learning = [p for p in self.parameters if p.grad is not None and not p.grad.is_sparse]
        total = sum(p.numel() for p in self.parameters)
        stride = max(1, total // WHOLE)
        self._strides = [min(stride, max(1, p.numel() // MARK)) for p in self.parameters]
        self.drawn = [mark.clone() for mark in self._marks()]
        self.gradients = _foreach_norm([p.grad for p in self.learning]) if self.learning else []
        self.update: list[Tensor] = []
        self.after: list[Tensor] = []

    def _marks(self) -> list[Tensor]:
        """What updates are measured on."""
        own = [p.detach() for p in self.parameters]
        return [p.reshape(-1)[::step] if step > 1 else p for p, step in zip(own, self._strides, strict=True)]

    @torch.no_grad()
    def finish(self) -> None:
        """The step was taken."""
        self.after = [mark.clone() for mark in self._marks()]
        self.update = list(_foreach_sub(self.after, self.drawn)) if self.drawn else []

    @torch.no_grad()
    def cosine_with_next(self) -> Tensor | None:
        """Between this step's update and the one that was taken just now."""
        following = _foreach_sub(self._marks(), self.after)
        dot = sum((part.sum() for part in _foreach_mul(self.update, following)), torch.zeros(()))
        sizes = [torch.stack(list(_foreach_norm(part))).norm() for part in (self.update, following)]
        return dot / (sizes[0] * sizes[1]).clamp_min(1e-30)

    def measured(self) -> list[Tensor]:
        """All tensors that ``read`` wants the values of, in its order."""
        if not self.parameters:
            return []
        return [*self.gradients, *_foreach_norm(self.update), *_foreach_norm(self.drawn)]

    def read(self, values: Sequence[float], layers: LayerWatch) -> Record:
        """Figures of the whole network, and those of its layers."""
        n, m = len(self.parameters), len(self.learning)
        if not n:
            return {}
        gradients, changes, sizes = values[:m], values[m : m + n], values[m + n :]
        drawn = zip(sizes, self.parameters, self.drawn, strict=True)
        weights = [size * (p.numel() / max(1, mark.numel())) ** 0.5 for size, p, mark in drawn]  # exact if all is drawn
        size, change = math.hypot(*sizes), math.hypot(*changes)
        sample: Record = {
            "grad_norm": math.hypot(*gradients) if gradients else 0.0,
            "weight_norm": math.hypot(*weights),
            "update_ratio": change / size if size else 0.0,
            "unchanged": change == 0.0,
        }
        places = {id(p): i for i, p in enumerate(self.parameters)}
        with_gradient = {id(p): g for p, g in zip(self.learning, gradients, strict=True)}
        found: dict[str, dict[str, float]] = {}
        for name, module in layers.order:
            main = max(own(module), key=Tensor.numel, default=None)
            if main is not None and id(main) in places:
                at, root = places[id(main)], main.numel() ** 0.5
                found[name] = {"weight": weights[at] / root, "update": changes[at] / sizes[at] if sizes[at] else 0.0}
                if id(main) in with_gradient:
                    found[name]["grad"] = with_gradient[id(main)] / root
        sample["layers"] = found
        if (
            decay := self._decay(sample["grad_norm"], sample["weight_norm"], change * size_of(weights, sizes))
        ) is not None:
            sample["decay_ratio"] = decay
        return sample

    def _decay(self, gradient: float, weight: float, change: float) -> float | None:
        """Weight decay's part of the gradient, or of the update where it is decoupled, over the rest."""
        group = self.optimizer.param_groups[0]
        decay = group.get("weight_decay", 0.0)
        if not decay:
            return 0.0
        if type(self.optimizer).__name__ in {"AdamW", "Lion", "Muon", "NAdamW"}:
            shrunk = rate_of(self.optimizer) * float(decay) * weight
            return shrunk / max(change - shrunk, 1e-12) if change else None
        return float(decay) * weight / gradient if gradient else None


def size_of(weights: Sequence[float], drawn: Sequence[float]) -> float:
    """How much larger the whole is than what was drawn of it."""
    part = math.hypot(*drawn)
    return math.hypot(*weights) / part if part else 1.0


def rate_of(optimizer: Optimizer) -> float:
    """Learning rate of the first group."""
    return float(optimizer.param_groups[0].get("lr", math.nan))


def gradients_gone(optimizer: Optimizer) -> bool:
    """No parameter that it learns has a gradient other than zero."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return not any(bool((g._values() if g.is_sparse else g).any()) for g in gradients)


def kept(scalar: Tensor) -> Tensor | float:
    """Its value now; where asking would wait for an accelerator, a copy there."""
    return scalar.item() if scalar.is_cpu else scalar.detach().clone()


def fetched(scalars: Sequence[Tensor | float]) -> list[float]:
    """Their values, with one copy for each device and type."""
    values: list[Any] = list(scalars)
    alike: dict[tuple[torch.device, torch.dtype], tuple[list[int], list[Tensor]]] = {}
    for place, scalar in enumerate(scalars):
        if isinstance(scalar, Tensor):
            places, same = alike.setdefault((scalar.device, scalar.dtype), ([], []))
            places.append(place)
            same.append(scalar if scalar.ndim == 0 else scalar.reshape(()))
    for places, same in alike.values():
        for place, value in zip(places, torch.stack(same).double().tolist(), strict=True):
            values[place] = value
    return values
