"""The layer table: parameters, FLOPs and activation memory of every module, from one forward that computes nothing.

The forward runs on fake tensors, which know shapes, types and kernels but hold no numbers, so that a model of any size
is measured in seconds on any machine. Nothing in the given module changes.
"""

import logging
from collections import defaultdict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from fieldguide.profile.formulas import cost, tied_output
from fieldguide.profile.trying import DEPENDENT, Example, arguments_of, explaining

T = TypeVar("T")


@dataclass(frozen=True)
class Layer:
    """One module; all numbers include the modules inside it, and every call when it is called more than once."""

    name: str
    kind: str
    output: tuple[int, ...]
    """Shape of the last result; empty when that is not a single tensor."""
    parameters: int
    flops: int
    """Of matrix products, convolutions and attention, two per multiply-add; what else there is costs memory traffic."""
    formula_flops: int
    """The same by the formulas of the layers inside: the second opinion on the counter."""
    activation_bytes: int
    """Kept by autograd for the backward pass; a tensor that several layers keep counts at the first."""
    has_parts: bool

    @property
    def depth(self) -> int:
        return len(self.name.split(".")) if self.name else 0


@dataclass(frozen=True)
class LayerTable:
    """All layers in the order in which they were built; the first is the model itself."""

    layers: tuple[Layer, ...]
    parameter_bytes: int
    """Parameters and buffers."""

    @property
    def total(self) -> Layer:
        return self.layers[0]

    def rows(self, depth: int = 2) -> list[Layer]:
        """What a reader sees of the model down to a depth: modules of that depth, and those above it without parts."""
        return [layer for layer in self.layers if layer.depth == depth or (layer.depth < depth and not layer.has_parts)]


def layer_table(model: nn.Module, example: Example) -> LayerTable:
    """Measure a module on an example, or on a tuple of several arguments; only their shapes and types matter.

    The module is measured in its present mode (training keeps dropout masks, for example) with float types as they are.
    Raises FieldguideError, with the layer and what it was given, where the module cannot run on the example.
    ``layer_table(model, torch.empty(1, 3, 224, 224)).total.flops`` → FLOPs of one forward.
    """
    return imagine(model, arguments_of(example), _measure)


def imagine(
    model: nn.Module, example: tuple[Tensor, ...], work: Callable[[nn.Module, dict[str, Tensor], tuple[Tensor, ...]], T]
) -> T:
    """What some work finds on a copy of a module, its state and its inputs, none of which hold numbers.

    Where the module asks for numbers, the work is done again on real copies. Raises FieldguideError where it fails.
    """
    try:
        fake = FakeTensorMode()
        with FakeCopyMode(fake):
            twin = deepcopy(model)
        with fake:
            # On a real device, wherever the module is ("meta" included), so that the kernels are those that will run.
            return _work_on(twin, tuple(_like(x) for x in example), _like, work)
    except DEPENDENT:
        return _work_on(deepcopy(model), tuple(map(_real, example)), _real, work)


def _work_on(twin: nn.Module, inputs: tuple[Tensor, ...], copy: Callable[[Tensor], Tensor], work: Any) -> Any:
    state = {name: copy(x) for name, x in (*twin.named_parameters(), *twin.named_buffers())}
    with torch.enable_grad(), _SILENT, explaining(twin, inputs):
        return work(twin, state, inputs)


class _Silent:
    """Fake tensors log a traceback of what they then raise; the error says all that is needed."""

    log = logging.getLogger("torch._subclasses.fake_tensor")

    def __enter__(self) -> None:
        self.log.disabled = True

    def __exit__(self, *_: object) -> None:
        self.log.disabled = False


_SILENT = _Silent()


def _measure(model: nn.Module, state: dict[str, Tensor], inputs: tuple[Tensor, ...]) -> LayerTable:
    kept = _Kept([*state.values(), *inputs])
    counter = FlopCounterMode(display=False, custom_mapping=UNCOUNTED)
    costs, outputs = _watch(model, counter, kept)
    with counter, saved_tensors_hooks(kept.keep, lambda x: x):
        functional_call(model, state, inputs)
    return LayerTable(
        tuple(
            Layer(
                name,
                type(module).__name__,
                outputs.get(name, ()),
                sum(parameter.numel() for parameter in module.parameters()),
                *costs[name],
                has_parts=any(True for _ in module.children()),
            )
            for name, module in model.named_modules()
        ),
        sum(x.numel() * x.element_size() for x in state.values()),
    )


def _real(x: Tensor) -> Tensor:
    """A copy with the same numbers; zeros for one that has none."""
    copied = torch.zeros_like(x, device="cpu") if x.is_meta else x.detach().clone()
    return copied.requires_grad_(x.requires_grad)


def _like(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device="cpu", requires_grad=x.requires_grad)


class _Kept:
    """The storages that autograd keeps, each counted once; parameters, buffers and inputs are there anyway."""

    def __init__(self, known: list[Tensor]):
        self.bytes = 0
        self._storages = {x.untyped_storage()._cdata: x for x in known}

    def keep(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in self._storages:
            self._storages[storage._cdata] = x  # held, so that its address is not given to another
            self.bytes += storage.nbytes()
        return x


def _watch(model: nn.Module, counter: FlopCounterMode, kept: _Kept) -> tuple[dict[str, Any], dict[str, Any]]:
    """Hooks that add up, per module, what the two counters gained between its start and its end."""
    costs, outputs, running = defaultdict(lambda: (0, 0, 0)), {}, []
    by_formula = 0
    made: list[list[tuple[int, ...]]] = [[]]  # shapes of results, for every module that runs those of its parts

    def start(module: nn.Module, inputs: Any) -> None:
        running.append((counter.get_total_flops(), by_formula, kept.bytes))
        made.append([])

    def stop_of(name: str):
        def stop(module: nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> None:
            nonlocal by_formula
            by_formula += cost(module, inputs, named, output) + tied_output(module, output, made.pop())
            before, now = running.pop(), (counter.get_total_flops(), by_formula, kept.bytes)
            costs[name] = tuple(old + new - first for old, new, first in zip(costs[name], now, before, strict=True))
            outputs[name] = tuple(output.shape) if isinstance(output, Tensor) else ()
            made[-1].append(outputs[name])

        return stop

    for name, module in model.named_modules():
        module.register_forward_pre_hook(start)
        module.register_forward_hook(stop_of(name), with_kwargs=True)
    return costs, outputs


def _attention_flops(q: Any, k: Any, v: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
    """Scores and weighted sums, two operations for each product; the arguments are shapes (b, h, n, c)."""
    b, h, n, c = q
    return 2 * b * h * n * k[2] * (c + v[3])


# PyTorch before 2.12 does not count the processor's fused attention.
UNCOUNTED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
