"""What a crash leaves to see: the modules that ran before it with their shapes, or the first that is not finite.

The frames of the traceback still hold what the network was given. A copy of the network is given the same again, and
every module is listened to until it fails in the same way.
"""

import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from fieldguide.doctor.observe.replay import tensors
from fieldguide.doctor.preflight import random_state_kept
from fieldguide.doctor.preflight.twin import copied

LAST = 5  # modules
MOST = 6  # tensors of a function


class LastCall:
    """The newest call of a network; its tensors without the graphs behind them."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.model, self.args, self.kwargs = weakref.ref(model), _detached(args), _detached(kwargs)


def what_was_seen(problem: BaseException, call: LastCall | None) -> str:
    """Some lines on where a training crashed; empty where nothing is known."""
    frames = list(_frames(problem))
    root = next((frame for frame in frames if _module(frame) is not None), None)
    model, args, kwargs = None, (), {}
    if root is not None:
        model, args, kwargs = _module(root), root.f_locals.get("args", ()), root.f_locals.get("kwargs", {})
    elif call is not None:
        model, args, kwargs = call.model(), call.args, call.kwargs
    lines = _again(model, args, kwargs, failing=root is not None) if model is not None else []
    if root is not None and not lines:  # what was called, one inside the other
        lines = [f"{type(m).__name__} was given {_shapes(f.f_locals.get('args'))}" for f in frames if (m := _module(f))]
    return "\n".join(lines[-LAST:] or _arguments(frames))


def _again(model: nn.Module, args: Any, kwargs: Any, *, failing: bool) -> list[str]:
    """The last modules of a failing call; of one that goes well, the first whose output is not finite."""
    try:
        twin = copied(model)
    except Exception:
        return []
    ran: deque[str] = deque(maxlen=LAST - 1)
    running: list[str] = []
    sick: list[str] = []

    def begins(name: str, module: nn.Module, given: Any) -> None:
        running.append(f"{name or 'the network'} ({type(module).__name__}) was given {_shapes(given)}")

    def ends(name: str, module: nn.Module, given: Any, output: Any) -> None:
        running.pop()
        if next(module.children(), None) is None:
            ran.append(f"{name} ({type(module).__name__}) made {_shapes(output)} of {_shapes(given)}")
            if not sick and not _finite(output):
                sick.append(_sickness(name, module, given))

    for name, module in twin.named_modules():
        module.register_forward_pre_hook(lambda m, given, name=name: begins(name, m, given))
        module.register_forward_hook(lambda m, given, output, name=name: ends(name, m, given, output))
    try:
        with torch.no_grad(), random_state_kept(), redirect_stdout(StringIO()):
            twin(*_detached(args), **_detached(kwargs))
    except Exception:
        return [*ran, *running[-1:]] if failing else []
    return sick


def _sickness(name: str, module: nn.Module, given: Any) -> str:
    bad = next((part for part, value in module.named_parameters() if not _finite(value)), None)
    if bad is not None:
        return f"the parameter {name}.{bad} is not finite"
    why = "" if _finite(given) else ", and neither is its input"
    return f"the first module whose output is not finite is {name} ({type(module).__name__}){why}"


def _arguments(frames: list[FrameType]) -> list[str]:
    """The tensors of the innermost function that has any."""
    for frame in reversed(frames):
        held = {name: value for name, value in frame.f_locals.items() if isinstance(value, Tensor)}
        if held:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in list(held.items())[:MOST])
            return [f"{frame.f_code.co_name} had {shapes}"]
    return []


def _frames(problem: BaseException) -> Iterator[FrameType]:
    step = problem.__traceback__
    while step is not None:
        yield step.tb_frame
        step = step.tb_next


def _module(frame: FrameType) -> nn.Module | None:
    """The module that a frame calls."""
    caller = frame.f_locals.get("self") if frame.f_code.co_name == "_call_impl" else None
    return caller if isinstance(caller, nn.Module) else None


def _finite(value: Any) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in tensors(value) if t.is_floating_point())


def _shapes(value: Any) -> str:
    return " and ".join(str(list(tensor.shape)) for tensor in tensors(value)[:MOST]) or "no tensor"


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if type(value) in {tuple, list}:
        return type(value)(map(_detached, value))
    if type(value) is dict:
        return {key: _detached(part) for key, part in value.items()}
    return value
