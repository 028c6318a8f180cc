"""Looking inside a model while it runs, without changing what it computes.

Axes: b batch, h heads, q/k query/key length.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.cores import Core
from fieldguide.errors import FieldguideError, unknown
from fieldguide.shapes import Tensor

KINDS = ("attention",)


@contextmanager
def capture(model: nn.Module, what: str = "attention", *, where: str = "*") -> Iterator[dict[str, Tensor]]:
    """Attention weights (b, h, q, k) of every call inside the ``with``, by module name; the latest call of each stays.

        with capture(model, "attention") as maps:
            model(x)
        maps["layers.0.attention"]

    No fast kernel forms these weights, so they are computed again from queries and keys (without dropout, in float32 or
    better, a few rows at a time): ``weights @ values`` is what the core gave. They take b·h·q·k numbers for each layer;
    ``where`` picks module names by a pattern such as ``"layers.11.*"``. Compiled models run eagerly meanwhile.

    Raises FieldguideError for another ``what``, or when no Attention has a name like ``where``.
    """
    if what not in KINDS:
        raise unknown("kind of capture", what, KINDS)
    named = {name: module for name, module in model.named_modules() if isinstance(module, Attention)}
    chosen = {name: module for name, module in named.items() if fnmatchcase(name, where)}
    if not chosen:
        raise FieldguideError(f"capture: no Attention is named like {where!r}; there are {list(named) or 'none'}")

    maps: dict[str, Tensor] = {}
    running = ""

    def enter(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(attention: nn.Module, args: Any) -> None:
            nonlocal running
            running = name

        return hook

    def record(core: Core, args: tuple[Tensor, Tensor, Tensor], rest: dict[str, Any]) -> None:
        (q, k, _), name = (
            args,
            running,
        )  # an Attention calls its core within its own forward, so ``running`` is its name
        if name in chosen:
            with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
                maps[name] = core.weights(q, k, rest["mask"], rest["bias"], rest["scale"])

    with ExitStack() as stack, torch.compiler.set_stance("force_eager"):
        for name, module in named.items():
            stack.callback(module.register_forward_pre_hook(enter(name)).remove)
        for core in {module.core for module in chosen.values()}:
            stack.callback(core.register_forward_pre_hook(record, with_kwargs=True).remove)
        yield maps
