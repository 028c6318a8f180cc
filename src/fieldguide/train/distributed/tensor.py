"""Tensor parallel: every process computes some heads of each attention and some units of each feed-forward layer."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import linear

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.biases import ALiBi, Bias, RelativeBuckets, RelativeTable
from fieldguide.blocks.feedforward import FeedForward, GatedFeedForward
from fieldguide.errors import FieldguideError
from fieldguide.objectives.phase import Batch, Objective
from fieldguide.optim import Clip
from fieldguide.train.checkpoint import Slice, Stored, read
from fieldguide.train.distributed.group import Group
from fieldguide.train.distributed.norms import Sum
from fieldguide.train.distributed.replicas import broadcast
from fieldguide.train.distributed.sharded import clip_norm, receive, require_parts
from fieldguide.train.distributed.states import changed
from fieldguide.train.distributed.strategy import Many, Window
from fieldguide.train.recipe import Recipe

Plan = dict[str, int]
"""The axis along which each parameter is cut; one that is not here is whole on every process."""
_COLUMNS = ("query", "key", "value", "gate", "expand")
_ROWS = ("output", "contract")


class Tensors(Many):
    """Projections are cut by columns, what merges them by rows, and one sum over all processes ends each sublayer
    (Shoeybi et al. 2019, "Megatron-LM", §3). The plan follows from the shared blocks and knows no model.

    All processes see the whole batch and hold everything else alike; biases of the scores are cut by heads. Random
    numbers are the same on all processes, and gradients of what they hold alike are averaged, as accelerators do not
    always add in one order. The network is copied to be cut, as in FSDP.
    """

    def __init__(self, group: Group):
        super().__init__(group)
        self._plan: Plan = {}
        self._shapes: dict[str, torch.Size] = {}
        self._partial: set[nn.Parameter] = set()
        self._cut: set[nn.Parameter] = set()

    def require(self, recipe: Recipe, objective: Objective, model: nn.Module) -> None:
        require_parts("tensor", recipe, objective, model)
        if recipe.precision == "fp16":
            raise FieldguideError('distributed: tensor cannot scale losses for fp16; use precision = "bf16"')
        plan_for(model, self.size)

    @contextmanager
    def spread(self, model: nn.Module) -> Iterator[nn.Module]:
        broadcast(model)
        own, rank, size = copy.deepcopy(model), self.group.rank, self.size
        self._plan = plan_for(own, size)
        named = dict(own.named_parameters())
        self._shapes = {name: named[name].shape for name in self._plan}
        cut(own, self._plan, rank, size)
        self._partial = partial_gradients(own)
        self._cut = {named[name] for name in self._plan}
        yield own

    def collect(self, trained: nn.Module, model: nn.Module) -> None:
        receive(model, trained, self._gathered)

    def split(self, window: Sequence[Batch], weight: Callable[[Batch], int]) -> Window:
        weights = [weight(batch) for batch in window]
        return window, [part / sum(weights) for part in weights], sum(weights)

    def expect(self, last: bool) -> None: ...

    def reduce(self, part: str, parameters: Sequence[nn.Parameter]) -> None:
        for parameter in parameters:
            if parameter.grad is not None and parameter not in self._cut:
                self.group.sum(parameter.grad)
                if parameter not in self._partial:
                    parameter.grad /= self.size

    def sum(self, figures: dict[str, float]) -> dict[str, float]:
        return self.same(figures)

    def clip(self, clip: Clip, limit: float) -> Clip:
        def by_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
            split, everywhere = (
                [p.grad for p in parameters if p.grad is not None and (p in self._cut) is here]
                for here in (True, False)
            )
            return clip_norm(split, everywhere, limit, self.group)

        return by_norm

    def parts(self, state: Any) -> Any:
        def part(name: str, tensor: Tensor) -> Tensor | Slice:
            axis, shape = self._plan[name], self._shapes[name]
            if tensor.ndim != len(shape) or tensor.shape[axis] * self.size != shape[axis]:
                return tensor  # a step counter and the like
            return Slice(tensor, shape, axis, self.group.rank * tensor.shape[axis])

        return changed(state, self._plan, part)

    def shards(self, stored: Any) -> Any:
        def own(name: str, tensor: Stored) -> Tensor | Stored:
            axis, each = self._plan[name], self._shapes[name][self._plan[name]] // self.size
            if tensor.shape != self._shapes[name]:
                return tensor
            return tensor.read(axis, self.group.rank * each, (self.group.rank + 1) * each)

        return read(changed(stored, self._plan, own))

    def _gathered(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self._plan:
            return tensor
        axis = self._plan[name]
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts, axis)


def plan_for(model: nn.Module, size: int) -> Plan:
    """Which parameters are cut among ``size`` processes, and along which axis.

    Raises:
        FieldguideError: the model has no such blocks, or their heads or units do not divide.
    """
    plan: Plan = {}
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        match module:
            case Attention():
                _require(size, module.num_heads, "heads", path)
                _require(size, module.num_kv_heads, "key and value heads", path)
            case FeedForward() | GatedFeedForward():
                _require(size, module.expand.out_features, "units", path)
            case RelativeBuckets():
                plan[f"{prefix}table.weight"] = 1
            case RelativeTable():
                plan[f"{prefix}table"] = 1
        if isinstance(module, Attention | FeedForward | GatedFeedForward):
            children = dict(module.named_children())
            plan |= {f"{prefix}{name}.weight": 0 for name in _COLUMNS if name in children}
            plan |= {f"{prefix}{name}.bias": 0 for name in _COLUMNS if name in children}
            plan |= {f"{prefix}{name}.weight": 1 for name in _ROWS if name in children}
    found = dict(model.named_parameters())
    plan = {name: axis for name, axis in plan.items() if name in found}
    if not plan:
        raise FieldguideError(
            f"distributed: {type(model).__name__} has no attention or feed-forward block to share by tensor; "
            "use --distributed ddp or fsdp"
        )
    return plan


@torch.no_grad()
def cut(model: nn.Module, plan: Plan, rank: int, size: int) -> None:
    """Leaves this process's part of a model in place, with the sums between the processes."""
    parameters = dict(model.named_parameters())
    for name, axis in plan.items():
        parameters[name].data = parameters[name].chunk(size, axis)[rank].clone()
    for module in model.modules():
        match module:
            case Attention():
                module.register_forward_pre_hook(_enter, with_kwargs=True)
                _override(module.output)
            case FeedForward() | GatedFeedForward():
                module.register_forward_pre_hook(_enter, with_kwargs=True)
                _override(module.contract)
            case Bias() if module.num_heads > 1:
                module.num_heads //= size
        if isinstance(module, ALiBi):
            module.slopes = module.slopes.chunk(size)[rank].clone()


def partial_gradients(model: nn.Module) -> set[nn.Parameter]:
    """What all heads share, such as norms of queries: each process has the gradient of its own heads only."""
    outer = {id(p) for m in model.modules() if isinstance(m, Attention) for name in (*_COLUMNS, *_ROWS)
             for p in getattr(m, name, nn.Identity()).parameters()}  # fmt: skip
    biases = {id(p) for m in model.modules() if isinstance(m, Bias) for p in m.parameters()}
    inner = {p for m in model.modules() if isinstance(m, Attention) for p in m.parameters()}
    return {parameter for parameter in inner if id(parameter) not in outer | biases}


class _Copy(torch.autograd.Function):
    """The same on all processes; the gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Sum.forward(ctx, gradient.contiguous())


class _Merge(torch.autograd.Function):
    """The sum over all processes; the gradient, the same on all, passes as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return Sum.forward(ctx, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient


def _enter(module: nn.Module, tokens: tuple[Any, ...], more: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs of a sublayer, as positional arguments or by name: what is cut begins with them."""
    arguments = tuple(_Copy.apply(x) if isinstance(x, Tensor) else x for x in tokens)
    return arguments, {key: _Copy.apply(x) if isinstance(x, Tensor) else x for key, x in more.items()}


def _override(layer: nn.Linear) -> None:
    object.__setattr__(layer, "forward", partial(_merge, layer))  # found before the class's method


def _merge(layer: nn.Linear, x: Tensor) -> Tensor:
    total = _Merge.apply(linear(x, layer.weight))
    return total if layer.bias is None else total + layer.bias


def _require(size: int, count: int, what: str, path: str) -> None:
    if count % size:
        raise FieldguideError(
            f"distributed: the {count} {what} of {path or 'the model'} do not divide among {size} processes; "
            "choose a number that divides them, or --distributed fsdp"
        )
