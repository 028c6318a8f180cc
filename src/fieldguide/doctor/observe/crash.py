"""What a crash leaves to see: the modules that ran before it with their shapes, or the first that is not finite.

The frames of the traceback still hold what the network was given. A copy of the network is given the same again, and
every module is listened to until it fails in the same way.
"""

import weakref
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from functools import partial
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
    """The newest call of a network; its tensors without the graphs behind them. Made at every step."""

    __slots__ = "args", "kwargs", "model"

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.model, self.args, self.kwargs = weakref.ref(model), _detached(args), _detached(kwargs)


def what_was_seen(problem: BaseException, call: LastCall | None) -> str:
    """Some lines on where a training crashed; empty where nothing is known."""
    frames = list(_frames(problem))
    root = next((frame for frame in frames if _module(frame) is not None), None)
    lines: list[str] = []
    if call is not None and (model := call.model()) is not None and (root is None or not _learns(root)):
        heard = Listening(model, call.args, call.kwargs)
        lines = heard.sick if root is None else heard.ran  # root: a loss that is a module
    if root is not None and (failed := _module(root)) is not None:
        heard = Listening(failed, root.f_locals.get("args", ()), root.f_locals.get("kwargs", {}))
        lines = [*lines, *heard.ran, *heard.running[-1:]]
        if not heard.running:  # it could not be called again: what was called, one inside the other
            lines += [_given("", m, f.f_locals.get("args")) for f in frames if (m := _module(f)) is not None]
    return "\n".join(lines[-LAST:] or _arguments(frames))


class Listening:
    """A copy of a network that is called once more."""

    def __init__(self, model: nn.Module, args: Any, kwargs: Any):
        self.ran: list[str] = []
        """Innermost modules that have answered."""
        self.running: list[str] = []
        """Those that had been called and have not."""
        self.sick: list[str] = []
        """The first whose answer is not finite."""
        with suppress(Exception), torch.no_grad(), random_state_kept(), redirect_stdout(StringIO()):
            twin = copied(model)
            for name, module in twin.named_modules():
                module.register_forward_pre_hook(partial(self._begins, name))
                module.register_forward_hook(partial(self._ends, name))
            twin(*_detached(args), **_detached(kwargs))

    def _begins(self, name: str, module: nn.Module, given: Any) -> None:
        self.running.append(_given(name, module, given))

    def _ends(self, name: str, module: nn.Module, given: Any, output: Any) -> None:
        self.running.pop()
        if next(module.children(), None) is None:
            self.ran.append(f"{_said(name, module)} made {_shapes(output)} of {_shapes(given)}")
            if not self.sick and not _finite(output):
                self.sick.append(_sickness(name, module, given))


def _given(name: str, module: nn.Module, given: Any) -> str:
    return f"{_said(name, module)} was given {_shapes(given)}"


def _said(name: str, module: nn.Module) -> str:
    return f"{name} ({type(module).__name__})" if name else type(module).__name__


def _learns(frame: FrameType) -> bool:
    module = _module(frame)
    return module is not None and next(module.parameters(), None) is not None


def _sickness(name: str, module: nn.Module, given: Any) -> str:
    bad = next((part for part, value in module.named_parameters() if not _finite(value)), None)
    if bad is not None:
        return f"the parameter {name}.{bad} is not finite"
    why = "" if _finite(given) else ", and neither is its input"
    return f"the first module whose output is not finite is {_said(name, module)}{why}"


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
        return value.detach() if value.requires_grad else value
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([_detached(part) for part in value])
    return {key: _detached(part) for key, part in value.items()} if kind is dict and value else value
