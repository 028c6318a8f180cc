"""What pre-flight tests work on: a copy of the network, and the first batches of its training."""

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from time import perf_counter
from types import FunctionType, MethodType
from typing import Any, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn

FEW = 8  # samples, which show as much as a whole batch does where a test asks for no average
MOST_BYTES = 2 << 30  # of parameters that are copied


@runtime_checkable
class Replay(Protocol):
    """A training that can be run again, on copies: ``fieldguide.doctor.observe.replay`` makes it."""

    model: nn.Module

    @property
    def batches(self) -> Sequence[Any]:
        """Dataclasses with ``args`` and ``kwargs`` of the network's forward and the loss's ``target`` (or None), and
        whether a loss that sums was ``averaged`` afterwards."""
        ...

    def output(self, model: nn.Module, batch: Any) -> Tensor:
        """What the loss would be given."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor: ...


Place = int | str
"""Where an input stands: number of an argument, or name of a keyword."""


def plain(model: nn.Module) -> nn.Module:
    """The network inside one that ``torch.compile`` made; others as they are."""
    return getattr(model, "_orig_mod", model)


def copied(model: nn.Module) -> nn.Module:
    """A copy that shares nothing with the network.

    RuntimeError when it would reach back into the training: through a hook that is not PyTorch's, or a ``forward`` that
    was put on the object and holds on to it. Such functions are not copied with it. MemoryError above 2 GiB.
    """
    model = plain(model)
    if sum(p.numel() * p.element_size() for p in model.parameters()) > MOST_BYTES:
        raise MemoryError("the network is too large to be copied")
    for name, module in model.named_modules():
        own = vars(module).get("forward")
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        foreign = [hook for hook in hooks if not str(hook.__module__).startswith(("torch.", "fieldguide."))]
        bound = isinstance(own, MethodType) and own.__self__ is module  # this one is copied along
        if foreign or _holds_network(own.__func__ if isinstance(own, MethodType) and bound else own):
            raise RuntimeError(f"{name or 'the network'} has a hook or a forward that would reach back")
    return copy.deepcopy(model)


def _holds_network(thing: Any, depth: int = 4) -> bool:
    if isinstance(thing, nn.Module) or depth == 0:
        return True
    if isinstance(thing, MethodType):
        return _holds_network(thing.__self__, depth - 1)
    if isinstance(thing, partial):
        return any(_holds_network(part, depth - 1) for part in (thing.func, *thing.args, *thing.keywords.values()))
    if isinstance(thing, FunctionType):
        return any(_holds_network(cell.cell_contents, depth - 1) for cell in thing.__closure__ or ())
    return any(_holds_network(part, depth - 1) for part in getattr(thing, "__dict__", {}).values() if callable(part))


class Twin:
    """A copy of the network in eval mode; nothing done to it reaches the training.

    TimeoutError from whatever calls the network after ``ends``, on the clock of ``time.perf_counter``.
    """

    def __init__(self, replay: Replay, ends: float = math.inf):
        self.replay, self.batches, self.ends = replay, list(replay.batches), ends
        self.batch = _few(self.batches[0])
        """The first few samples."""
        self.model = copied(replay.model).eval()

    def inputs(self) -> Iterator[tuple[Place, Tensor]]:
        """The tensors that the network is given directly, and where."""
        for place, value in (*enumerate(self.batch.args), *self.batch.kwargs.items()):
            if isinstance(value, Tensor):
                yield place, value

    def main_input(self) -> tuple[Place, Tensor]:
        """The first floating-point input of two axes or more, else the first of whole numbers; LookupError without."""
        found = [(place, value) for place, value in self.inputs() if value.ndim >= 1]
        for place, value in found:
            if value.is_floating_point() and value.ndim >= 2:
                return place, value
        for place, value in found:
            if not value.is_floating_point():
                return place, value
        raise LookupError("no tensor input")

    @torch.no_grad()
    def output(self, *changes: tuple[Place, Tensor]) -> Tensor:
        """The output on the first samples with some inputs changed, in float32 or more."""
        return self.output_of(changed(self.batch, *changes))

    @torch.no_grad()
    def output_of(self, batch: Any) -> Tensor:
        self._in_time()
        result = self.replay.output(self.model, batch)
        return result.float() if result.dtype in {torch.float16, torch.bfloat16} else result

    def loss(self, batch: Any) -> Tensor:
        self._in_time()
        return self.replay.loss(self.model, batch)

    def _in_time(self) -> None:
        if perf_counter() > self.ends:
            raise TimeoutError("no time left")

    @cached_property
    def answer(self) -> Tensor:
        """The output on the first samples as they are."""
        return self.output()

    @cached_property
    def wavers(self) -> float:
        """How far a second answer to the same is from the first."""
        return rms(self.output() - self.answer)

    @torch.no_grad()
    def modules_called(self, *changes: tuple[Place, Tensor]) -> list[tuple[str, nn.Module, Any, Any]]:
        """Name, module, inputs and output of every module in the order in which they finish."""
        calls: list[tuple[str, nn.Module, Any, Any]] = []
        hooks = [
            module.register_forward_hook(lambda module, args, out, name=name: calls.append((name, module, args, out)))
            for name, module in self.model.named_modules()
        ]
        try:
            self.output(*changes)
        finally:
            for hook in hooks:
                hook.remove()
        return calls


def changed(batch: Any, *changes: tuple[Place, Tensor]) -> Any:
    args, kwargs = list(batch.args), dict(batch.kwargs)
    for place, value in changes:
        if isinstance(place, int):
            args[place] = value
        else:
            kwargs[place] = value
    return dataclasses.replace(batch, args=tuple(args), kwargs=kwargs)


def size(batch: Any) -> int:
    """Samples of a batch: the length of its inputs' first axis, of which that of a flattened target is a multiple.

    Tensors without an axis do not count. ValueError where the others have different ones.
    """
    lengths = {len(value) for value in (*batch.args, *batch.kwargs.values()) if _has_samples(value)}
    n = min(lengths, default=0)
    if len(lengths) != 1 or not n or (_has_samples(batch.target) and (len(batch.target) or 1) % n):
        raise ValueError("the tensors of a batch have different first axes")
    return n


def _has_samples(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.ndim > 0


def cut(batch: Any, part: slice) -> Any:
    """Some samples of a batch; ValueError when its tensors do not share their first axis."""
    n = size(batch)

    def pick(value: Any) -> Any:
        return value.unflatten(0, (n, -1))[part].flatten(0, 1) if _has_samples(value) else value

    return dataclasses.replace(
        batch,
        args=tuple(map(pick, batch.args)),
        kwargs={name: pick(value) for name, value in batch.kwargs.items()},
        target=pick(batch.target),
    )


def _few(batch: Any) -> Any:
    try:
        return cut(batch, slice(FEW)) if size(batch) > FEW else batch
    except ValueError:
        return batch


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()
