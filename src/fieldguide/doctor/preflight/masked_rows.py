"""Does an attention see nothing at all somewhere? A softmax over an empty row is NaN although its inputs are finite."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fieldguide.doctor.preflight.twin import Twin
from fieldguide.doctor.records import Test


def masked_rows(twin: Twin) -> Test:
    kinds = ("attention", "transformer", "softmax")
    if not any(kind in type(module).__name__.lower() for module in twin.model.modules() for kind in kinds):
        return {"ok": None, "says": "no attention"}
    if _finite(twin.output()):
        return {"ok": True, "figure": 0.0, "says": "the output is finite"}
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


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor) and value.is_floating_point():
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def _finite(value: Any) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in _tensors(value))
