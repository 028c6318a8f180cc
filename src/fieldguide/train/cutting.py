"""Batches of whatever form, cut along the axis of their samples."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from fieldguide.objectives.phase import Batch


def tensors_of(batch: Batch) -> list[Tensor]:
    """Every tensor in a batch that has an axis to cut."""
    if isinstance(batch, Tensor):
        return [batch] if batch.ndim else []
    return [tensor for value in _inner(batch) for tensor in tensors_of(value)]


def samples_of(batch: Batch) -> int:
    """The length of the first tensor in a batch that has one; 0 where none has, as nobody can cut that."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 0
    return next(filter(None, map(samples_of, _inner(batch))), 0)


def part(batch: Any, samples: int, start: int, stop: int) -> Any:
    """Of everything that has an entry for each sample, those from ``start`` to ``stop``; the rest as it is."""
    if isinstance(batch, Tensor):
        return batch[start:stop] if batch.ndim and len(batch) == samples else batch
    if isinstance(batch, dict):
        return {key: part(value, samples, start, stop) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(part(value, samples, start, stop) for value in batch))
    if isinstance(batch, tuple | list):
        if len(batch) == samples and not any(isinstance(value, Tensor) for value in batch):  # one text each, say
            return batch[start:stop]
        return type(batch)(part(value, samples, start, stop) for value in batch)
    if is_dataclass(batch) and not isinstance(batch, type):
        parts = {f.name: part(getattr(batch, f.name), samples, start, stop) for f in fields(batch) if f.init}
        return replace(batch, **parts)
    return batch


def _inner(batch: Batch) -> Sequence[Any]:
    if isinstance(batch, Mapping):
        return [*batch.values()]
    if isinstance(batch, tuple | list):
        return batch
    if is_dataclass(batch):
        return [getattr(batch, field.name) for field in fields(batch)]
    return ()
