"""What every candidate of ``tune`` is: a frozen value that makes a copy of a network faster, or says why it cannot."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fieldguide.errors import FieldguideError

Arguments = tuple[Tensor, ...]


@dataclass(frozen=True)
class Subject:
    """What is tuned: a network and what it is called with, on one device."""

    model: nn.Module
    arguments: Arguments
    device: torch.device
    training: bool = False

    @property
    def dtype(self) -> torch.dtype:
        floats = (x.dtype for x in (*self.model.parameters(), *self.arguments) if x.is_floating_point())
        return next(floats, torch.float32)

    @property
    def generators(self) -> list[torch.device]:
        """Devices, beside the processor, whose random numbers a pass may draw."""
        return [self.device] if self.device.type == "cuda" else []

    def has(self, *kinds: type[nn.Module]) -> bool:
        """Whether a layer of exactly one of these kinds is in the network."""
        return any(type(module) in kinds for module in self.model.modules())

    @property
    def watched(self) -> bool:
        """Whether someone has hooks in the network, which other layers would not call."""
        return any(module._forward_hooks or module._forward_pre_hooks for module in self.model.modules())


class Candidate(ABC):
    """One setting. Several are laid over each other: each changes the copy that those before it have left."""

    @abstractmethod
    def __str__(self) -> str:
        """Unique among all; what a result is remembered by."""

    def refusal(self, subject: Subject, chosen: "Choice") -> str | None:
        """Why it is not worth trying after what is chosen already; None where it is."""
        return None

    def after(self, chosen: "Choice") -> "Choice":
        """The settings with this one among them; some take the place of others."""
        return (*chosen, self)

    def apply(self, model: nn.Module, arguments: Arguments) -> nn.Module:
        """The network to call in place of ``model``, a copy that may be changed; ``arguments`` as it is called now."""
        return model

    def given(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """What the network is called with in place of the arguments."""
        return arguments

    def around(self) -> AbstractContextManager[Any]:
        """Entered for every call, and left again."""
        return nullcontext()

    def forward(self, device: torch.device) -> AbstractContextManager[Any]:
        """Entered for the forward pass and the loss of a training step."""
        return nullcontext()

    def optimizer(self) -> Mapping[str, Any]:
        """What the optimizer of a training is made with."""
        return {}

    def recipe(self) -> Mapping[str, Any]:
        """The same as fields of ``fieldguide.Recipe``, where a recipe has them."""
        return {}


Choice = tuple[Candidate, ...]


def floats_to(dtype: torch.dtype, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in arguments)


def swap(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The network with some modules in place of others, wherever they stand."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child is not None and child in new:
                module._modules[name] = new[child]
    return new.get(model, model)


def copied(model: nn.Module) -> nn.Module:
    """A deep copy. Raises FieldguideError for a module that allows none."""
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as problem:
        reason = str(problem).splitlines()[0]
        raise FieldguideError(f"{type(model).__name__} cannot be copied, so nothing can be tried: {reason}") from None
