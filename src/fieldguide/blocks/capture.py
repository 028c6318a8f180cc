"""Looking inside a model while it runs, without changing what it computes.

Axes: b batch, h heads, q/k query/key length.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.cores import Core
from fieldguide.blocks.selection import select
from fieldguide.errors import unknown
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
    ``where`` selects modules by a pattern (``blocks.selection``) such as ``"layers.10-11"``. Compiled models run
    eagerly meanwhile.

    Raises FieldguideError for another ``what``, or when a part of ``where`` selects no Attention.
    """
    if what not in KINDS:
        raise unknown("kind of capture", what, KINDS)
    # One in several places goes by its first name.
    names = {attention: name for name, attention in reversed(select(model, where, Attention).items())}

    maps: dict[str, Tensor] = {}
    running: Attention | None = None  # calls its core within its own forward, so it is the last that was entered

    def enter(attention: Attention, args: Any) -> None:
        nonlocal running
        running = attention

    def record(core: Core, args: tuple[Tensor, Tensor, Tensor], rest: dict[str, Any]) -> None:
        q, k, _ = args
        if running in names:
            with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
                maps[names[running]] = core.weights(q, k, rest["mask"], rest["bias"], rest["scale"])

    with ExitStack() as stack, torch.compiler.set_stance("force_eager"):
        for module in model.modules():
            if isinstance(module, Attention):  # all of them: one that is not meant may share its core with one that is
                stack.callback(module.register_forward_pre_hook(enter).remove)  # pyright: ignore[reportArgumentType]
        for core in {attention.core for attention in names}:
            stack.callback(core.register_forward_pre_hook(record, with_kwargs=True).remove)
        yield maps
