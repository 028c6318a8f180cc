"""Smaller micro-batches when memory runs out: the same samples, the same loss and gradient, less memory."""

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fieldguide.errors import FieldguideError
from fieldguide.objectives.phase import Batch
from fieldguide.train.cutting import part, samples_of
from fieldguide.train.failures import is_out_of_memory

T = TypeVar("T")
_MOST = 32
"""Pieces of a batch."""


class Pieces:
    """How many pieces each batch is cut into: one, and twice as many each time that memory runs out.

    The loss of a piece counts by its share of the samples (or tokens), so a step keeps its samples, its loss and its
    gradient. Batch norms do see the smaller pieces, and what draws random numbers, as dropout, draws others.
    """

    def __init__(self, model: nn.Module, unit: str = "step"):
        self.model, self.unit = model, unit
        self.count = 1
        self._largest = 0  # piece since the last halving

    def cut(self, batch: Batch) -> list[Batch]:
        """The batch in pieces of equal size, the last perhaps smaller; a batch of fewer samples in fewer pieces."""
        samples = samples_of(batch)
        size = -(-samples // self.count)
        self._largest = max(self._largest, size)
        if size == samples:
            return [batch]
        return [part(batch, samples, start, start + size) for start in range(0, samples, size)]

    def halve(self, problem: BaseException) -> str:
        """Twice as many pieces from now on, and what to say about it.

        Raises:
            FieldguideError: pieces cannot become smaller.
            RuntimeError, MemoryError: ``problem``, where it is something else.
        """
        if not is_out_of_memory(problem):
            raise problem
        if self._largest <= 1 or self.count >= _MOST:
            samples = f"{self._largest} samples" if self._largest > 1 else "one sample"
            raise FieldguideError(
                f"out of memory, even with {samples} of the batch at a time: use a smaller model or smaller inputs, "
                "or compute inner results again (recompute)"
            ) from problem
        self.count, self._largest = 2 * self.count, 0
        norms = any(isinstance(module, _BatchNorm) and module.training for module in self.model.modules())
        return (
            f"out of memory: from here on each batch goes through in {self.count} pieces, this {self.unit} again, "
            "with the same result" + ", only that batch norms see the pieces" * norms
        )

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


def as_many_as_fit(size: int, attempt: Callable[[int], T]) -> T:
    """What ``attempt`` gives for batches of this size; when memory runs out, for half as many, and so on.

    Raises:
        FieldguideError: even one sample at a time does not fit.
    """
    while True:
        try:
            return attempt(size)
        except (RuntimeError, MemoryError) as problem:
            if not is_out_of_memory(problem):
                raise
            if size == 1:
                raise FieldguideError(
                    "out of memory, even with one sample at a time: name another device (--device), or use a smaller "
                    "model or smaller inputs"
                ) from problem
        size = -(-size // 2)
        free_memory()


def free_memory() -> None:
    """Gives back what a failed attempt has left; no traceback may refer to it any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
