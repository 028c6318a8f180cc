"""The right-hand sides of a table of names: our name for a tensor, and how its shape changes, both ways."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Change = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Row:
    """Our name for a tensor and what happens to it on the way; ``write`` undoes ``read`` bit by bit."""

    ours: str
    read: tuple[Change, ...] = ()
    write: tuple[Change, ...] = ()
    parts: tuple[str, ...] = ()
    """The words that ``{part}`` stands for."""

    def then(self, read: Change, write: Change, parts: tuple[str, ...] = ()) -> "Row":
        return replace(self, read=(*self.read, read), write=(write, *self.write), parts=parts or self.parts)


@dataclass(frozen=True)
class Ignored:
    """A tensor of theirs that we have no use for; it is not written back."""

    reason: str


@dataclass(frozen=True)
class Tied:
    """A second name of theirs for one tensor; files hold either or both, and only the first is written back."""

    first: str


@dataclass(frozen=True)
class Derived:
    """A tensor of theirs that another of theirs determines; checked where a file has it, and written back."""

    source: str
    compute: Callable[[Tensor], Tensor]


def as_row(row: str | Row) -> Row:
    """A bare name is the row that changes nothing."""
    return Row(row) if isinstance(row, str) else row


def transpose(row: str | Row) -> Row:
    """Swaps the last two axes of matrices: GPT-2's Conv1D stores ``(in, out)``. Vectors stay."""

    def swap(tensors: list[Tensor]) -> list[Tensor]:
        return [tensor.mT if tensor.ndim > 1 else tensor for tensor in tensors]

    return as_row(row).then(swap, swap)


def reshape(row: str | Row, theirs: tuple[int, ...], ours: tuple[int, ...]) -> Row:
    """The same numbers in another shape; −1 is free: ``reshape("head.weight", (-1, 512, 7, 7), (-1, 25088))``."""
    return as_row(row).then(
        lambda tensors: [tensor.reshape(ours) for tensor in tensors],
        lambda tensors: [tensor.reshape(theirs) for tensor in tensors],
    )


def squeeze(row: str | Row, *axes: int) -> Row:
    """Drops axes of length 1: ``squeeze("head.weight", -2, -1)`` for a head that is a 1×1 convolution of theirs."""

    def read(tensors: list[Tensor]) -> list[Tensor]:
        if any(tensor.shape[axis] != 1 for tensor in tensors for axis in axes):
            raise ValueError(f"axes {axes} are not of length 1")
        return [tensor.squeeze(axes) for tensor in tensors]

    def write(tensors: list[Tensor]) -> list[Tensor]:
        for axis in sorted(axes, key=abs):
            tensors = [tensor.unsqueeze(axis) for tensor in tensors]
        return tensors

    return as_row(row).then(read, write)


def split(row: str | Row, *parts: str, axis: int = 0) -> Row:
    """One tensor of theirs is several of ours, of equal size: a fused query, key and value."""

    def read(tensors: list[Tensor]) -> list[Tensor]:
        (tensor,) = tensors
        if tensor.shape[axis] % len(parts):
            raise ValueError(f"{tensor.shape[axis]} cannot be split into {len(parts)}")
        return list(tensor.chunk(len(parts), axis))

    return as_row(row).then(read, lambda tensors: [torch.cat(tensors, axis)], parts)


def concat(row: str | Row, *parts: str, axis: int = 0) -> Row:
    """Several tensors of theirs, ``{part}`` in their name, are one of ours; the mirror of :func:`split`."""

    def write(tensors: list[Tensor]) -> list[Tensor]:
        (tensor,) = tensors
        if tensor.shape[axis] % len(parts):
            raise ValueError(f"{tensor.shape[axis]} cannot be split into {len(parts)}")
        return list(tensor.chunk(len(parts), axis))

    return as_row(row).then(lambda tensors: [torch.cat(tensors, axis)], write, parts)


def interleave(row: str | Row, axis: int) -> Row:
    """Features in another order: theirs are first all even ones and then all odd ones, ours alternate.

    ``(a, b, c, d)`` of theirs are ``(a, c, b, d)`` of ours. Tensors without that axis stay.
    """

    def reorder(tensors: list[Tensor], halves: tuple[int, int]) -> list[Tensor]:
        return [
            tensor.unflatten(axis, halves).transpose(axis, axis + 1).flatten(axis, axis + 1)
            if tensor.ndim > axis
            else tensor
            for tensor in tensors
        ]

    return as_row(row).then(lambda tensors: reorder(tensors, (2, -1)), lambda tensors: reorder(tensors, (-1, 2)))


def tied(first: str) -> Tied:
    """A tensor that repeats another of theirs: ``"lm_head.weight": tied("wte.weight")``."""
    return Tied(first)


def derived(source: str, compute: Callable[[Tensor], Tensor]) -> Derived:
    """A tensor without information of its own: ``"bias.{i}.index": derived("bias.{i}.table", index_of)``."""
    return Derived(source, compute)


def ignore(reason: str) -> Ignored:
    """A tensor that is no weight, or of a part that the model does not have; the reason goes to the report."""
    return Ignored(reason)
