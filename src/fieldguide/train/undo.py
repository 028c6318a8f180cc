"""Taking back a step that was begun: it did not fit into memory, or its batch was bad."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import (
    Tensor,
    _foreach_copy_,  # pyright: ignore[reportPrivateImportUsage]
    nn,
)
from torch.optim import Optimizer

from fieldguide.train.precision import Precision
from fieldguide.train.randomness import Generators


class Undo:
    """``remember`` before a step, ``undo`` after a failure: all that the step changed is bit for bit what it was.

    Before the optimizer moves, a step changes buffers, as running statistics, random generators and the gradients.
    Where an objective has several parts, the first have moved when a later one fails, so weights and optimizers are
    kept too. Copies stay on the device: a step waits for nothing.
    """

    def __init__(self, model: nn.Module, optimizers: Mapping[str, Optimizer], precision: Precision):
        self.model, self.optimizers, self.precision = model, optimizers, precision
        self.generators = Generators()
        saved = model.state_dict().keys()  # the others are tables and scratch space
        named = [(f"{prefix}.{name}".lstrip("."), module, name) for prefix, module in model.named_modules()
                 for name, _ in module.named_buffers(recurse=False)]  # fmt: skip
        self._places = [(module, name) for path, module, name in named if path in saved]
        self._live: list[Tensor] = []
        self._kept: list[Tensor] = []
        self._parts: tuple[list[Tensor], list[Any]] = [], []

    @torch.no_grad()
    def remember(self) -> None:
        # All of them: batch norm's kernels change their statistics without a mark in the tensor's version.
        live = [getattr(*place) for place in self._places]
        if [*map(id, live)] != [*map(id, self._live)]:
            self._live, self._kept = live, [buffer.clone() for buffer in live]
        elif live:
            _foreach_copy_(self._kept, live)
        self.generators.remember()
        if len(self.optimizers) > 1:
            states = [_copied(optimizer.state_dict()) for optimizer in self.optimizers.values()]
            self._parts = [p.detach().clone() for p in self.model.parameters()], states

    @torch.no_grad()
    def undo(self) -> None:
        self.model.zero_grad()
        self.precision.forget()
        self.buffers()
        self.generators.restore()
        weights, states = self._parts
        for parameter, old in zip(self.model.parameters(), weights, strict=False):
            parameter.copy_(old)
        for optimizer, state in zip(self.optimizers.values(), states, strict=False):
            optimizer.load_state_dict(state)

    @torch.no_grad()
    def buffers(self) -> None:
        """Takes back what a forward pass left in the buffers, and nothing else."""
        for (module, name), buffer, old in zip(self._places, self._live, self._kept, strict=True):
            setattr(module, name, buffer.copy_(old))


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value
