"""Fetching numbers from tensors: how long a program waits for ``item()``, ``tolist()``, ``float(x)``, ``cpu()``, …"""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

PLAIN = ("item", "tolist", "__float__", "__int__", "__bool__")
NAMES = (*PLAIN, "cpu", "numpy")


class FetchWatch:
    """While it is open, ``tell(seconds)`` follows everything that is fetched. Open for single steps only: it costs."""

    def __init__(self, tell: Callable[[float], None]):
        self.tell = tell
        self.is_open = False
        self._own: dict[str, Any] = {}
        """What the class had of its own; the rest it has from its base."""

    def open(self) -> None:
        if not self.is_open:
            self._own = {name: value for name, value in vars(Tensor).items() if name in NAMES}
            for name in PLAIN:
                setattr(Tensor, name, self._timed(getattr(Tensor, name)))
            setattr(Tensor, "cpu", self._copied(Tensor.cpu))  # noqa: B010  (methods are replaced on purpose)
            setattr(Tensor, "numpy", self._shared(Tensor.numpy))  # noqa: B010
            self.is_open = True

    def close(self) -> None:
        if self.is_open:
            for name in NAMES:
                delattr(Tensor, name)
            for name, value in self._own.items():
                setattr(Tensor, name, value)
            self.is_open = False

    def _timed(self, original: Any) -> Any:
        def fetch(tensor: Tensor) -> Any:
            started = perf_counter()
            value = original(tensor)
            self.tell(perf_counter() - started)
            return value

        return fetch

    def _copied(self, original: Any) -> Any:
        def cpu(tensor: Tensor, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
            started = perf_counter()
            value = original(tensor, memory_format=memory_format)
            self.tell(perf_counter() - started)
            return value

        return cpu

    def _shared(self, original: Any) -> Any:
        def numpy(tensor: Tensor, *, force: bool = False) -> Any:
            started = perf_counter()
            value = original(tensor, force=force)
            self.tell(perf_counter() - started)
            return value

        return numpy
