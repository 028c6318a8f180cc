"""Less memory for more time: inner results that are computed again instead of kept for the gradient."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fieldguide.blocks.selection import select


@contextmanager
def recomputing(model: nn.Module, where: str) -> Iterator[tuple[str, ...]]:
    """Inside the ``with``, what a pattern selects keeps only its inputs and runs a second time for its gradient.

    Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", §4. Gives the names of the parts: the outermost
    modules that ``where`` (``blocks.selection``) selects, lists entered; none for "". One pass forward more for each
    buys the memory of all but the largest; ``"*.layers"`` or ``"stages.?.?"``, a part for each block, is a good choice.

        with recomputing(model, "encoder.layers"):
            loss(model(x)).backward()

    Outputs and gradients stay bit-identical: dropout draws the same numbers again, and the running statistics of norms
    are not updated twice. Evaluation keeps nothing anyway and is left alone. Parts that change other buffers in their
    forward pass, such as spectral norms, are not for this.

    Raises FieldguideError for a part of the pattern that selects nothing.
    """
    parts = _outermost(model, where)
    with ExitStack() as stack:
        for part in parts.values():
            # An attribute of this one module, found before its class's method and gone afterwards.
            object.__setattr__(part, "forward", partial(_run, part, part.forward))
            stack.callback(part.__dict__.pop, "forward")
        yield tuple(parts)


def _outermost(model: nn.Module, where: str) -> dict[str, nn.Module]:
    chosen: dict[str, nn.Module] = {}
    for name, module in (select(model, where) if where else {}).items():
        inside = any(name.startswith(f"{outer}.") for outer in chosen)
        if not inside and not isinstance(module, nn.ModuleList | nn.ModuleDict) and module not in chosen.values():
            chosen[name] = module
    return chosen


def _run(part: nn.Module, forward: Callable[..., Any], *args: Any, **named: Any) -> Any:
    if not (part.training and torch.is_grad_enabled()):
        return _call(forward, args, named)
    contexts = partial(_contexts, part)
    return checkpoint(_call, forward, args, named, use_reentrant=False, context_fn=contexts)


def _call(forward: Callable[..., Any], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return forward(*args, **named)


def _contexts(part: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For the first pass and for the second."""
    return nullcontext(), _without_statistics(part)


@contextmanager
def _without_statistics(part: nn.Module) -> Iterator[None]:
    """Running statistics move by a share of 0 and their batches are not counted."""
    norms = [module for module in part.modules() if getattr(module, "track_running_stats", False)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None  # pyright: ignore
    try:
        yield
    finally:
        for norm, momentum, counter in before:
            norm.momentum, norm.num_batches_tracked = momentum, counter
