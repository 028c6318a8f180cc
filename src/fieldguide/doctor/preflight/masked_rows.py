"""Does an attention see nothing at all somewhere?

A softmax over an empty row is NaN although its inputs are finite. Kernels that give zeros instead leave a language
model whose predictions do not depend on what came before.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fieldguide.doctor.preflight.causal import by_position, shifted_input
from fieldguide.doctor.preflight.twin import Twin
from fieldguide.doctor.records import Test


def masked_rows(twin: Twin) -> Test:
    kinds = ("attention", "transformer")
    if not any(kind in type(module).__name__.lower() for module in twin.model.modules() for kind in kinds):
        return {"ok": None, "says": "no attention"}
    if _finite(twin.answer) and _finite(twin.output_of(twin.batches[0])):
        return _context(twin)
    for name, module, args, out in twin.modules_called():
        fresh = _finite(args) and not _finite(out)
        if fresh and any(kind in type(module).__name__.lower() for kind in kinds):
            share = 1 - torch.stack([t.isfinite().float().mean() for t in _tensors(out)]).mean().item()
            return {
                "ok": False,
                "figure": share,
                "says": f"{name or 'the network'} ({type(module).__name__}) turns finite inputs into NaN "
                f"in {share:.0%} of its output",
            }
    return {"ok": True, "figure": 0.0, "says": "every row of every attention sees something"}


@torch.no_grad()
def _context(twin: Twin) -> Test:
    """Whether later predictions of a language model change with earlier tokens.

    Parameters that are all zero, as last projections often are at first, are given small numbers before.
    """
    found, well = shifted_input(twin), Test(ok=True, figure=0.0, says="every row of every attention sees something")
    if found is None:
        return well
    awake, (place, tokens) = copy.copy(twin), found
    awake.model = copy.deepcopy(twin.model)
    for parameter in awake.model.parameters():
        if not parameter.any():
            parameter.normal_(0, 0.02)
    middle, other = tokens.shape[1] // 2, tokens.clone()
    other[:, :middle] = tokens.roll(1, 0)[:, :middle].flip(1)
    out, moved = (by_position(awake.output(*changes), tokens) for changes in ((), ((place, other),)))
    if out is None or moved is None or (out != moved)[:, middle:].any() or (other == tokens).all():
        return well
    says = f"changing the tokens before position {middle} moves no later prediction: attention sees nothing"
    return {"ok": False, "figure": 1.0, "says": says}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor) and value.is_floating_point():
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _finite(value: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in _tensors(value))
