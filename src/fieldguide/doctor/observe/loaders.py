"""Waiting for data: every ``DataLoader`` tells how long each of its batches took."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from time import perf_counter
from typing import Any

from torch.utils.data import DataLoader, RandomSampler, SequentialSampler


class LoaderWatch:
    """While it is open, ``tell(loader, seconds)`` follows every batch that a loader gave."""

    def __init__(self, tell: Callable[[DataLoader, float], None]):
        self.tell = tell
        self._original: Any = None

    def open(self) -> None:
        original, tell = DataLoader.__iter__, self.tell
        self._original = original

        def iterate(loader: DataLoader) -> Iterator[Any]:
            return _Timed(original(loader), loader, tell)

        setattr(DataLoader, "__iter__", iterate)  # noqa: B010

    def close(self) -> None:
        if self._original is not None:
            setattr(DataLoader, "__iter__", self._original)  # noqa: B010  (a method is replaced on purpose)
            self._original = None


class _Timed:
    """An iterator that is timed; whatever else is asked of it, the loader's own answers."""

    def __init__(self, inner: Any, loader: DataLoader, tell: Callable[[DataLoader, float], None]):
        self._inner, self._loader, self._tell = inner, loader, tell

    def __iter__(self) -> "_Timed":
        return self

    def __next__(self) -> Any:
        started = perf_counter()
        batch = next(self._inner)
        self._tell(self._loader, perf_counter() - started)
        return batch

    def __len__(self) -> int:
        return len(self._inner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def loader_facts(loader: DataLoader) -> dict[str, Any]:
    facts: dict[str, Any] = {"workers": loader.num_workers, "drop_last": bool(getattr(loader, "drop_last", False))}
    if size := loader.batch_size or getattr(loader.batch_sampler, "batch_size", None):
        facts["batch_size"] = size
    sampler: Any = loader
    while (inner := getattr(sampler, "batch_sampler", None) or getattr(sampler, "sampler", None)) is not None:
        sampler = inner  # a batch sampler may hold another, and that one the order
    if isinstance(sampler, RandomSampler | SequentialSampler):
        facts["shuffle"] = isinstance(sampler, RandomSampler)
    with suppress(TypeError):  # a stream has no length
        facts["dataset_size"] = len(loader.dataset)  # pyright: ignore[reportArgumentType]
    return facts
