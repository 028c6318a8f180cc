"""One forward pass of a module on an example; where it fails, the error names the layer and what it was given."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._pytree import tree_leaves

from fieldguide.errors import FieldguideError

Example = Tensor | tuple[Tensor, ...]
DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException)
"""Raised on fake tensors by what depends on their numbers."""


def arguments_of(example: Example) -> tuple[Tensor, ...]:
    """What the module is called with. Raises FieldguideError for an example that is no tensor."""
    arguments = example if isinstance(example, tuple) else (example,)
    for argument in arguments:
        if not isinstance(argument, Tensor):
            raise FieldguideError(
                f"the example holds a {type(argument).__name__}; give a tensor, or a tuple of tensors"
            )
    return arguments


@contextmanager
def explaining(model: nn.Module, example: tuple[Tensor, ...]) -> Iterator[None]:
    """Inside the ``with``, a forward pass that fails raises FieldguideError with the layer and what it was given."""
    names = {module: name for name, module in model.named_modules()}
    running: list[tuple[str, str]] = []

    def start(module: nn.Module, inputs: Any) -> None:
        running.append((f"layer {names[module]!r} ({type(module).__name__})", shown(inputs)))

    def stop(module: nn.Module, inputs: Any, output: Any) -> None:
        running.pop()

    handles = [module.register_forward_pre_hook(start) for module in names]
    handles += [module.register_forward_hook(stop) for module in names]
    try:
        yield
    except (FieldguideError, *DEPENDENT, torch.OutOfMemoryError):  # these say it themselves
        raise
    except (
        RuntimeError,
        ValueError,
        TypeError,
        IndexError,
        AssertionError,
        NotImplementedError,
        AttributeError,
    ) as why:
        where, given = running[-1] if len(running) > 1 else ("its forward", shown(example))
        reason = str(why).splitlines()[0] if str(why) else type(why).__name__
        raise FieldguideError(
            f"{type(model).__name__} cannot run on the example {shown(example)}: {where} was given {given}: "
            f"{reason}{_hint(model, example)}"
        ) from why
    finally:
        for handle in handles:
            handle.remove()


def shown(values: Any) -> str:
    """``float32 (1, 3, 224, 224)`` for every tensor among the values."""
    tensors = [x for x in tree_leaves(values) if isinstance(x, Tensor)]
    return ", ".join(f"{_name(x.dtype)} {tuple(x.shape)}" for x in tensors) or "no tensor"


def _hint(model: nn.Module, example: tuple[Tensor, ...]) -> str:
    """What to change, where the types alone explain why the module cannot run."""
    weights = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    floats = [x for x in example if x.is_floating_point()]
    first = next((m for m in model.modules() if any(True for _ in m.parameters(recurse=False))), None)
    if len(floats) == 1 and isinstance(first, nn.Embedding):
        return "; its embedding takes whole numbers: give tokens, torch.randint(…)"
    if floats and weights and {x.dtype for x in floats} != {weights[0].dtype}:
        return f"; its weights are {_name(weights[0].dtype)}: give example.to({weights[0].dtype})"
    if weights and not floats and first is not None and not isinstance(first, nn.Embedding):
        return f"; its first layer takes {_name(weights[0].dtype)}: give example.to({weights[0].dtype})"
    return ""


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def device_of(model: nn.Module, example: tuple[Tensor, ...]) -> torch.device:
    """Where the module computes. Raises FieldguideError when its parts, or the example, lie elsewhere."""
    places = {x.device for x in (*model.parameters(), *model.buffers(), *example)}
    if len(places) > 1:
        listing = " and ".join(sorted(map(str, places)))
        raise FieldguideError(f"{type(model).__name__} and the example lie on {listing}; move all to one device")
    device = next(iter(places), torch.device("cpu"))
    if device.type == "meta":
        raise FieldguideError(
            f"{type(model).__name__} lies on the meta device, where nothing is computed; complexity(model, example) "
            "needs no more, but a time needs a real one"
        )
    return device


@contextmanager
def in_mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Inside the ``with``, training or evaluation mode; afterwards every module in the mode in which it was."""
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def fitting(batch: int, device: torch.device) -> Iterator[None]:
    """Inside the ``with``, running out of memory raises FieldguideError with the size of the batch."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise FieldguideError(f"a batch of {batch} does not fit the memory of {device}; choose a smaller one") from None
