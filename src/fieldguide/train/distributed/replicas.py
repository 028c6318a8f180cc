"""Data parallel: every process has the whole network and computes its part of each batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.objectives.phase import Batch, Objective
from fieldguide.optim import Clip
from fieldguide.train.checkpoint import ALONE, Crew, read
from fieldguide.train.cutting import part, tensors_of
from fieldguide.train.distributed.buckets import Buckets
from fieldguide.train.distributed.group import Group
from fieldguide.train.distributed.norms import synchronised
from fieldguide.train.distributed.strategy import OUT_OF_MEMORY, Many, Window
from fieldguide.train.failures import Elsewhere
from fieldguide.train.recipe import Recipe


class SplitBatches(Many):
    """What data-parallel strategies have in common: each process computes its rows of every global micro-batch.

    The batches themselves are the same on any number of processes, so a run goes on with another number at the very
    sample where it stopped. Every process reads the whole batch and keeps its rows: reading is not what is shared.
    """

    def require(self, recipe: Recipe, objective: Objective, model: nn.Module) -> None:
        if recipe.batch_size % self.size:
            near = max(recipe.batch_size // self.size, 1) * self.size
            raise FieldguideError(
                f"distributed: batch_size {recipe.batch_size} does not divide among {self.size} processes; "
                f"set batch_size = {near} (of all processes together)"
            )
        _refuse(recipe, "noise_scale", recipe.noise_scale, "false")
        _refuse(recipe, "tune", recipe.tune != "off", '"off", and what one process has found (recipe.toml)')

    @property
    def stream(self) -> int:
        return self.group.rank

    def split(self, window: Sequence[Batch], weight: Callable[[Batch], int]) -> Window:
        """Rows by rank. A batch too small to give all ranks something to learn from is computed whole by each of them,
        and every one has an equal share in it."""
        parts: list[Batch] = []
        shares: list[float] = []
        total = 0
        for batch in window:
            slices = [rows(batch, rank, self.size) for rank in range(self.size)]
            weights = [weight(part) for part in slices]
            if min(weights) > 0:
                parts.append(slices[self.group.rank])
                shares.append(weights[self.group.rank])
            else:
                parts.append(batch)
                shares.append(weight(batch) / self.size)
            total += weight(batch)
        return parts, [share / total for share in shares], total

    def sum(self, figures: dict[str, float]) -> dict[str, float]:
        everyone = self.group.gather([*figures.values()])
        return dict(zip(figures, map(sum, zip(*everyone, strict=True)), strict=True))


class DDP(SplitBatches):
    """Every process has all parameters; the gradients are summed while they are computed (Li et al. 2020, "PyTorch
    Distributed", §3.2: buckets in the order in which the backward pass fills them).

    Batch norms take their statistics over all processes, so that the network learns as on one. Unlike torch's wrapper,
    the model itself stays as it is: objectives may call any of its methods, and train several parts of it in turn.

    Without such norms only the sums tie processes together. So all agree that everybody had the memory for a step
    before the sums begin: before the last backward pass, or after it in steps that are the first of their size.
    """

    def __init__(self, group: Group):
        super().__init__(group)
        self._buckets: Buckets | None = None
        self._norms: Sequence[nn.Module] = ()
        self._proven = self._summing = False

    @contextmanager
    def spread(self, model: nn.Module) -> Iterator[nn.Module]:
        broadcast(model)
        buckets = self._buckets = Buckets(model)
        try:
            with synchronised(model) as self._norms:
                yield model
        finally:
            buckets.close()

    def collect(self, trained: nn.Module, model: nn.Module) -> None: ...

    def expect(self, last: bool) -> None:
        assert self._buckets
        if last and self._proven:
            self._begin_to_sum()
        self._buckets.expect(self._summing)

    def reduce(self, part: str, parameters: Sequence[nn.Parameter]) -> None:
        assert self._buckets
        if not self._proven:
            self._begin_to_sum()
        self._buckets.finish(part, parameters)
        self._proven, self._summing = True, False

    def _begin_to_sum(self) -> None:
        self.ready()
        self._summing = True

    def ready(self) -> None:
        try:
            super().ready()
        except Elsewhere:
            self._proven = False
            raise

    def out_of_memory(self, line: str, training: bool) -> None:
        if self._summing or (training and any(norm.training for norm in self._norms)):
            super().out_of_memory(line, training)
        self._proven = False
        self.agree(OUT_OF_MEMORY + self.group.rank)

    def clip(self, clip: Clip, limit: float) -> Clip:
        return clip

    def parts(self, state: Any) -> Any:
        return state

    def shards(self, stored: Any) -> Any:
        return read(stored)

    def writers(self) -> Crew | None:
        return ALONE if self.leads else None


def rows(batch: Batch, rank: int, size: int) -> Batch:
    """The ``rank``-th of ``size`` nearly equal parts of a batch, along the first axis of all its tensors.

    Raises:
        FieldguideError: the tensors have not the same number of rows.
    """
    lengths = {len(tensor) for tensor in tensors_of(batch)}
    if len(lengths) != 1:
        raise FieldguideError(
            f"distributed: a batch is split along the first axis of its tensors, which have {sorted(lengths)} rows; "
            "give batches whose tensors have a row for each sample"
        )
    n = lengths.pop()
    return part(batch, n, n * rank // size, n * (rank + 1) // size)


@torch.no_grad()
def broadcast(model: nn.Module) -> None:
    """Gives every process the leading one's parameters and buffers."""
    for tensor in [*model.parameters(), *model.buffers()]:
        dense = tensor.detach().contiguous()
        dist.broadcast(dense, 0)
        tensor.copy_(dense)


def _refuse(recipe: Recipe, field: str, value: object, instead: str) -> None:
    if value:
        raise FieldguideError(f"distributed: {field} needs all gradients in one process; set {field} = {instead}")
