"""Every operation of a piece of work, with its FLOPs and the bytes that it must move; counted, not timed.

Run on fake tensors, so nothing is computed. Bytes are those of an operation's tensors, read once and written once:
what it moves at least, when it shares nothing with its neighbours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from fieldguide.profile.layers import UNCOUNTED, imagine

Loss = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Operation:
    """One launched operation."""

    name: str
    flops: int
    bytes: int
    layer: str | None = None
    """The innermost module that was being called; the model itself is ``""``, a backward pass or an update is None."""


def operations_of(model: nn.Module, example: tuple[Tensor, ...], loss: Loss | None = None) -> tuple[Operation, ...]:
    """The operations of one forward pass; with a loss, those of a training step with a fused AdamW.

    The module is counted in its present mode. Raises FieldguideError where it cannot run on the example.
    """

    def run(twin: nn.Module, state: dict[str, Tensor], inputs: tuple[Tensor, ...]) -> tuple[Operation, ...]:
        with torch.set_grad_enabled(loss is not None), Operations() as noted:
            for name, module in twin.named_modules():
                module.register_forward_pre_hook(partial(noted.enter, name))
                module.register_forward_hook(noted.leave)
            output = functional_call(twin, state, inputs)
            if loss is not None:
                loss(output).backward()
        learned = sum(x.numel() * x.element_size() for x in state.values() if x.requires_grad)
        # Weights and both averages are read and written, gradients read.
        update = [Operation("fused_adamw", 0, 7 * learned)] if loss is not None else []
        return (*noted.list, *update)

    return imagine(model, example, run)


class Operations(TorchDispatchMode):
    """Inside the ``with``, notes every operation that computes or moves something; views and empty tensors do not."""

    def __init__(self):
        super().__init__()
        self.formulas = {**flop_registry, **{key: _on_shapes(formula) for key, formula in UNCOUNTED.items()}}
        self.list: list[Operation] = []
        self._calls: list[str] = []

    def enter(self, name: str, *_: Any) -> None:
        """A module of this name is called: what follows is its own, until ``leave``."""
        self._calls.append(name)

    def leave(self, *_: Any) -> None:
        self._calls.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        asked = func.namespace == "prim"  # a fake tensor for its device, say
        if not (asked or func.is_view or func._overloadpacket in _FREE):
            formula = self.formulas.get(func._overloadpacket)
            flops = formula(*args, **named, out_val=result) if formula else 0
            moved = _bytes((args, named)) + _bytes(result)
            layer = self._calls[-1] if self._calls else None
            self.list.append(Operation(func._overloadpacket.__name__, int(flops), moved, layer))
        return result


def _bytes(values: Any) -> int:
    distinct = {id(x): x.numel() * x.element_size() for x in tree_leaves(values) if isinstance(x, Tensor)}
    return sum(distinct.values())


def _on_shapes(formula: Callable[..., int]) -> Callable[..., int]:
    """A formula of shapes, called with tensors."""

    def of_tensors(*args: Any, out_val: Any = None, **named: Any) -> int:
        return formula(*(x.shape if isinstance(x, Tensor) else x for x in args))

    return of_tensors


_FREE = {
    torch.ops.aten.empty,
    torch.ops.aten.empty_like,
    torch.ops.aten.empty_strided,
    torch.ops.aten.new_empty,
    torch.ops.aten.new_empty_strided,
    torch.ops.aten.detach,
    torch.ops.aten.detach_,
    torch.ops.aten._unsafe_view,
    torch.ops.aten.lift_fresh,
    torch.ops.aten.alias,
}
