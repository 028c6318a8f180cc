"""Recorded batches, parted into those that forks learn from and those that they are judged by."""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fieldguide.doctor.observe.replay import Kept, tensors

HELD_OUT = 5  # every so many-th sample, by its content: what is seen again in a later epoch stays on its side
FEWEST = 8  # samples that are judged by


def parted(batches: Sequence[Kept]) -> tuple[list[Kept], list[Kept]]:
    """Batches to learn from, in their order and size, and batches to be judged by; no sample is in both.

    ValueError where there are too few. Batches whose tensors do not have one row for each sample are held out whole.
    """
    rows = [_rows(batch) for batch in batches]
    if any(row is None for row in rows):
        held = [batch for batch in batches if _key(batch.args) % HELD_OUT == 0]
        learned = [batch for batch in batches if _key(batch.args) % HELD_OUT]
        return _both(learned, held)
    samples = [row for row in rows if row is not None]
    size = max((len(row) for row in samples), default=0)
    every = [(row, batch) for batch, own in zip(batches, samples, strict=True) for row in own]
    keys = [_key((row.args, row.kwargs)) % HELD_OUT for row, _ in every]
    learned = [row for (row, _), key in zip(every, keys, strict=True) if key]
    seen: dict[int, Kept] = {}
    for (row, _), key in zip(every, keys, strict=True):
        if not key:
            seen.setdefault(_key((row.args, row.kwargs, row.target)), row)
    held = list(seen.values())
    if len(held) < FEWEST:
        raise ValueError(f"{len(held)} samples are too few to judge by")
    return _both(joined(learned, size), joined(held, 256))


def _both(learned: list[Kept], held: list[Kept]) -> tuple[list[Kept], list[Kept]]:
    if not learned or not held:
        raise ValueError("too few batches were recorded")
    return learned, held


def _rows(batch: Kept) -> list[Kept] | None:
    """The batch sample by sample; None where its tensors have other first axes than its number of samples."""
    given = tensors((batch.args, batch.kwargs))
    if not isinstance(batch.target, Tensor) or not given or not all(value.ndim for value in given):
        return None
    count, target = len(given[0]), batch.target
    if any(len(value) != count for value in given) or not target.ndim or not count or len(target) % count:
        return None
    target = target.reshape(count, -1, *target.shape[1:]) if len(target) > count else target[:, None]
    return [_changed(batch, lambda value, i=i: value[i : i + 1], target[i]) for i in range(count)]


def joined(rows: Sequence[Kept], size: int) -> list[Kept]:
    """Samples as batches of so many; a last one that is smaller by half is left out where there are others."""
    whole = [_join(rows[at : at + size]) for at in range(0, len(rows), size)]
    if len(whole) > 1 and len(rows) % size and len(rows) % size < (size + 1) // 2 + 1:
        whole.pop()
    return whole


def _join(rows: Sequence[Kept]) -> Kept:
    parts = [iter(tensors((row.args, row.kwargs))) for row in rows]
    targets = [row.target for row in rows if row.target is not None]
    return _changed(rows[0], lambda _: torch.cat([next(part) for part in parts]), torch.cat(targets))


def _changed(batch: Kept, change: Callable[[Tensor], Tensor], target: Tensor | None) -> Kept:
    return dataclasses.replace(
        batch, args=mapped(batch.args, change), kwargs=mapped(batch.kwargs, change), target=target
    )


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Every tensor in a tree of tuples, lists and dicts changed; the rest as it is."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in {tuple, list}:
        return type(value)(mapped(item, change) for item in value)
    return {key: mapped(item, change) for key, item in value.items()} if isinstance(value, dict) else value


def _key(value: Any) -> int:
    key = 0
    for tensor in tensors(value):
        key = zlib.crc32(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes(), key)
    return key


def rows_of(batches: Sequence[Kept]) -> list[Kept]:
    """Their samples; LookupError where their tensors do not tell them apart."""
    rows = [_rows(batch) for batch in batches]
    if any(row is None for row in rows):
        raise LookupError("the batches cannot be parted into samples")
    return [row for own in rows for row in own or ()]
