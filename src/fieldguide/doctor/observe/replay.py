"""A training that can be run again: the network, its first batches, and how their loss comes from its output."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fieldguide.doctor.observe.losses import LossCall

MOST_BYTES = 32 << 20
MOST_BATCHES = 8


@dataclass(frozen=True)
class Kept:
    """What the network was given, and what the loss was given beside its output."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Tensor | None = None
    call: Callable[[Tensor, Tensor], Tensor] | None = field(default=None, repr=False)
    path: Callable[[Any], Tensor] = field(default=lambda output: output, repr=False)
    """From the network's output to the loss's input."""
    averaged: bool = False
    """Backward was called on about the sum over the number of samples, or of terms, where the loss function sums."""
    factor: float = 1.0
    """What backward was called on, over what the loss is here."""


class Recording:
    """Implements ``preflight.twin.Replay``. Batches whose loss cannot be told from the output are not kept."""

    within = 40
    """Batches of a training, beyond which none is looked at any more."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.batches: list[Kept] = []
        self._bytes = 0
        self._given: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    @property
    def full(self) -> bool:
        return len(self.batches) >= MOST_BATCHES or self._bytes >= MOST_BYTES

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The network was called; copies are made now, because a training may change its batch afterwards."""
        if not self.full:
            self._given = copied(args), copied(kwargs)

    @torch.no_grad()
    def answered(self, output: Any, loss: Tensor, call: LossCall | None) -> None:
        """Backward was called on ``loss`` after the network had answered ``output``."""
        if self._given is None or self.full:
            return
        args, kwargs = self._given
        self._given = None
        kept = _from_call(args, kwargs, output, call, loss) or _from_output(args, kwargs, output, loss)
        if kept is not None:
            self.keep(kept, sum(t.numel() * t.element_size() for t in tensors((args, kwargs, kept.target))))

    def keep(self, batch: Kept, size: int) -> None:
        """One more batch, of so many bytes."""
        self.batches.append(batch)
        self._bytes += size

    def stepping(self, optimizer: torch.optim.Optimizer) -> None:
        """A step is about to be taken."""

    def output(self, model: nn.Module, batch: Kept) -> Tensor:
        return batch.path(model(*batch.args, **batch.kwargs))

    def loss(self, model: nn.Module, batch: Kept) -> Tensor:
        output = self.output(model, batch)
        return output if batch.call is None or batch.target is None else batch.call(output, batch.target)


def _from_call(args: Any, kwargs: Any, output: Any, call: LossCall | None, loss: Tensor) -> Kept | None:
    """The loss is a known function's value, or that times a number, of something that is a view of the output."""
    if call is None or call.value.numel() != 1 or not bool(torch.isfinite(call.value)):
        return None
    factor = float(loss.detach()) / float(call.value) if float(call.value) else 1.0
    if loss is not call.value and not 1e-6 < abs(factor) < 1e6:
        return None
    path = _path(output, call.prediction)
    if path is None:
        return None
    sizes = {len(call.target) if call.target.ndim else 1, call.prediction.numel()}
    averaged = call.reduction == "sum" and any(size > 1 and 0.2 < factor * size < 5 for size in sizes)
    plain = call.again
    again = (lambda output, target: factor * plain(output, target)) if averaged else plain
    return Kept(args, kwargs, call.target.detach().clone(), again, path, averaged, 1.0 if averaged else factor)


def _from_output(args: Any, kwargs: Any, output: Any, loss: Tensor) -> Kept | None:
    """The network returns its own loss, as those of transformers do."""
    paths: list[Callable[[Any], Any]] = [lambda out: out]
    if isinstance(output, dict):
        paths.append(lambda out: out["loss"])
    elif isinstance(output, tuple | list):
        paths.append(lambda out: out[0])
    elif not isinstance(output, Tensor):
        paths.append(lambda out: out.loss)
    for path in paths:
        try:
            if path(output) is loss:
                return Kept(args, kwargs, None, None, path)
        except (AttributeError, KeyError, IndexError):
            continue
    return None


def _path(output: Any, prediction: Tensor) -> Callable[[Any], Tensor] | None:
    """How the loss's input is made from the network's output; None when that cannot be told."""
    parts: list[tuple[Callable[[Any], Any], Any]] = [(lambda out: out, output)]
    if isinstance(output, tuple | list):
        parts += [(lambda out, i=i: out[i], part) for i, part in enumerate(output)]
    elif isinstance(output, dict):
        parts += [(lambda out, key=key: out[key], part) for key, part in output.items()]
    for pick, part in parts:
        if not isinstance(part, Tensor):
            continue
        for change in _changes(part, prediction):
            try:
                made = change(part)
            except (RuntimeError, IndexError):
                continue
            if made.shape == prediction.shape and torch.equal(made.detach(), prediction.detach()):
                return lambda out, pick=pick, change=change: change(pick(out))
    return None


def _changes(part: Tensor, prediction: Tensor) -> list[Callable[[Tensor], Tensor]]:
    shape = prediction.shape
    width = shape[-1] if prediction.ndim else 1
    return [
        lambda x: x,
        lambda x: x.squeeze(-1),
        lambda x: x.transpose(1, 2),
        lambda x: x.flatten(),
        lambda x: x.reshape(-1, width),
        lambda x: x[:, :-1].reshape(-1, width),
        lambda x: x[:, :-1],
        lambda x: x[:, -1],
        lambda x: x[:, 0],
        lambda x: x.float(),
        lambda x: x.log_softmax(-1),
        lambda x: x.softmax(-1),
        lambda x: x.sigmoid(),
    ]


def copied(value: Any) -> Any:
    """Tensors in tuples, lists and dicts cloned; anything else copied where it can be."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(map(copied, value))
    if isinstance(value, list):
        return [copied(item) for item in value]
    if type(value) is dict:
        return {key: copied(item) for key, item in value.items()}
    try:
        return copy.copy(value)
    except Exception:
        return value


def tensors(value: Any) -> list[Tensor]:
    """Every tensor in a tree of tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in tensors(item)]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors(item)]
    return []
