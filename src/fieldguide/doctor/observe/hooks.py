"""Where observation takes hold of PyTorch: public hooks of modules and optimizers, and four narrow wrappers.

Global module hooks are there only until the networks are known; after that the networks alone are hooked, so that a
layer's call costs nothing. Whatever goes wrong in looking is a record and never an error of the training.
"""

import os
import threading
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader

from fieldguide.doctor.observe.fetches import FetchWatch
from fieldguide.doctor.observe.loaders import LoaderWatch
from fieldguide.doctor.observe.losses import LossCall, LossWatch

Optimizer = torch.optim.Optimizer


@runtime_checkable
class Watcher(Protocol):
    """What is told of a training."""

    def network_called(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], learning: bool
    ) -> None: ...
    def network_answered(self, model: nn.Module, output: Any) -> None: ...
    def loss_called(self, call: LossCall) -> None: ...
    def batch_read(self, loader: DataLoader, seconds: float) -> None: ...
    def before_backward(self, loss: Tensor) -> None: ...
    def number_fetched(self, seconds: float) -> None: ...
    def clipped(self, norm: Tensor, limit: float) -> None: ...
    def before_step(self, optimizer: Optimizer) -> None: ...
    def after_step(self, optimizer: Optimizer) -> None: ...
    def scaled(self, scaler: Any, optimizer: Optimizer) -> None: ...
    def trouble(self, problem: Exception) -> None: ...


class Hooks:
    """Attached from ``attach`` to ``detach``; in other threads and in child processes it does nothing."""

    def __init__(self, watcher: Watcher):
        self.watcher = watcher
        self._thread, self._process = threading.get_ident(), os.getpid()
        self._looking = self._depth = 0
        self._handles: list[Any] = []
        self._discovery: list[Any] = []
        self._settled: list[Any] = []
        self._answers: list[Any] = []
        self._known: list[nn.Module] = []
        self._new: nn.Module | None = None
        """In its first call."""
        self._originals: list[tuple[Any, str, Any]] = []
        self._losses = LossWatch(lambda call: self._tell(watcher.loss_called, call))
        self.fetches = FetchWatch(lambda seconds: self._tell(watcher.number_fetched, seconds))
        """Opened for the steps of samples."""
        self._loaders = LoaderWatch(lambda loader, seconds: self._tell(watcher.batch_read, loader, seconds))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Hooks":
        """A network that is copied while it is observed takes its hooks along, and they lead here."""
        return self

    def attach(self) -> None:
        tell, watcher = self._tell, self.watcher
        self._handles = [
            register_optimizer_step_pre_hook(self._step_begins),
            register_optimizer_step_post_hook(lambda optimizer, *_: tell(watcher.after_step, optimizer)),
        ]
        self.discover()
        self._losses.open()
        self._loaders.open()
        self._replace(torch.Tensor, "backward", self._backward)
        self._replace(nn.utils, "clip_grad_norm_", self._clip)
        self._replace(torch.amp.GradScaler, "step", self._scaler_step)

    def detach(self) -> None:
        self.overlook_answers()
        for handle in (*self._handles, *self._discovery, *self._settled):
            handle.remove()
        self._handles, self._discovery, self._settled = [], [], []
        self._losses.close()
        self._loaders.close()
        self.fetches.close()
        while self._originals:
            owner, name, original = self._originals.pop()
            setattr(owner, name, original)

    def discover(self) -> None:
        """Every module is looked at, for the networks are not known yet, or no longer."""
        self.overlook_answers()
        for handle in (*self._discovery, *self._settled):
            handle.remove()
        self._settled = []
        self._known = []
        self._discovery = [
            register_module_forward_pre_hook(self._module_begins),
            register_module_forward_hook(self._module_ends, with_kwargs=True, always_call=True),
        ]

    def settle(self) -> None:
        """The networks are known: from now on they alone are hooked."""
        while self._discovery:
            self._discovery.pop().remove()
        for model in self._known:
            self._settled.append(model.register_forward_pre_hook(self._network_begins, with_kwargs=True))
            self._answers.append(model.register_forward_hook(self._network_ends))

    def overlook_answers(self) -> None:
        """What settled networks answer is told no longer."""
        while self._answers:
            self._answers.pop().remove()

    # ---------------------------------------------------------------------------------------------- networks

    def _module_begins(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if not self._here:
            return
        self._depth += 1
        if self._depth == 1 and next(module.parameters(), None) is not None:
            if not any(module is known for known in self._known):
                self._known.append(module)
                # Keywords reach only hooks of the module itself, and those only from the next call on.
                self._discovery.append(module.register_forward_pre_hook(self._keywords, with_kwargs=True))
                self._new = module
            self._tell(self.watcher.network_called, module, args, {}, torch.is_grad_enabled())

    def _keywords(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._here and self._depth == 1 and kwargs:
            self._tell(self.watcher.network_called, module, args, kwargs, torch.is_grad_enabled())

    def _module_ends(self, module: nn.Module, args: tuple[Any, ...], *rest: Any) -> None:
        """``rest``: keywords and output; the output alone after an error in ``forward``."""
        if self._here:
            kwargs, output = rest if len(rest) == 2 else ({}, None)
            self._depth = max(0, self._depth - 1)
            if self._depth == 0 and module is self._new:
                self._new = None
                if kwargs:
                    self._tell(self.watcher.network_called, module, args, kwargs, torch.is_grad_enabled())
            if self._depth == 0 and any(module is known for known in self._known):
                self._tell(self.watcher.network_answered, module, output)

    def _network_begins(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._tell(self.watcher.network_called, module, args, kwargs, torch.is_grad_enabled())

    def _network_ends(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._tell(self.watcher.network_answered, module, output)

    # -------------------------------------------------------------------------------------- steps, functions

    def _step_begins(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A step that is given a closure begins when the closure has first been called: it makes the gradients."""
        closure = kwargs.get("closure") or (args[1] if len(args) > 1 else None)
        if not callable(closure) or not self._here:
            self._tell(self.watcher.before_step, optimizer)
            return None
        waiting = True

        def evaluate() -> Any:
            nonlocal waiting
            result = closure()
            if waiting:
                waiting = False
                self._tell(self.watcher.before_step, optimizer)
            return result

        if "closure" in kwargs:
            return args, {**kwargs, "closure": evaluate}
        return (optimizer, evaluate, *args[2:]), kwargs

    def _replace(self, owner: Any, name: str, replacement: Callable[[Any], Any]) -> None:
        original = getattr(owner, name)
        self._originals.append((owner, name, original))
        setattr(owner, name, replacement(original))

    def _backward(self, original: Any) -> Any:
        def backward(
            self_: Tensor,
            gradient: Any = None,
            retain_graph: Any = None,
            create_graph: bool = False,
            inputs: Any = None,
        ) -> None:
            self._tell(self.watcher.before_backward, self_)
            return original(self_, gradient, retain_graph, create_graph, inputs)

        return backward

    def _clip(self, original: Any) -> Any:
        def clip_grad_norm_(
            parameters: Any,
            max_norm: Any,
            norm_type: Any = 2.0,
            error_if_nonfinite: bool = False,
            foreach: Any = None,
        ) -> Tensor:
            norm = original(parameters, max_norm, norm_type, error_if_nonfinite, foreach)
            self._tell(self.watcher.clipped, norm.detach(), float(max_norm))
            return norm

        return clip_grad_norm_

    def _scaler_step(self, original: Any) -> Any:
        def step(scaler: Any, optimizer: Optimizer, *args: Any) -> Any:
            result = original(scaler, optimizer, *args)
            self._tell(self.watcher.scaled, scaler, optimizer)
            return result

        return step

    @property
    def _here(self) -> bool:
        return not self._looking and threading.get_ident() == self._thread and os.getpid() == self._process

    def _tell(self, what: Callable[..., None], *details: Any) -> None:
        if not self._here or is_compiling():
            return
        self._looking += 1  # what is called while looking is not looked at
        try:
            what(*details)
        except Exception as problem:
            self.watcher.trouble(problem)
        finally:
            self._looking -= 1


def compiled(model: nn.Module) -> bool:
    """Whether hooks on its layers would have it compiled anew."""
    return any(
        type(module).__name__ == "OptimizedModule" or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )
