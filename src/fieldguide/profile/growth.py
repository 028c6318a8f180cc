"""What a network costs and how that grows: counted at several sizes of its input, and the power of the size fitted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor, nn

from fieldguide.errors import FieldguideError
from fieldguide.profile.layers import LayerTable, layer_table
from fieldguide.profile.trying import Example, arguments_of, shown

LARGER, SMALLER = (1, 2, 3, 4), (0.25, 0.5, 0.75, 1)
"""Sizes that are tried, as multiples of the example's; the smaller ones where a network takes no larger."""


@dataclass(frozen=True)
class Growth:
    """Costs at several sizes of the input; the exponents are slopes of the logarithms, by least squares."""

    axis: Literal["length", "image side"]
    sizes: tuple[int, ...]
    flops: tuple[int, ...]
    formula_flops: tuple[int, ...]
    activation_bytes: tuple[int, ...]

    @property
    def exponent(self) -> float:
        """x in FLOPs = O(n^x), between the smallest and the largest of the sizes."""
        return _slope(self.sizes, self.flops)

    @property
    def predicted(self) -> float:
        """The same from the layers' formulas."""
        return _slope(self.sizes, self.formula_flops)

    @property
    def memory_exponent(self) -> float:
        """The same of the activations that are kept for the backward pass."""
        return _slope(self.sizes, self.activation_bytes)


@dataclass(frozen=True)
class Complexity:
    """Parameters, FLOPs and memory of one forward pass, and how they grow."""

    parameters: int
    """A tensor in several places counts once."""
    trainable: int
    table: LayerTable
    growth: Growth | None
    """None where the input has no axis that is a length or an image."""

    @property
    def flops(self) -> int:
        """By PyTorch's counter, two per multiply-add."""
        return self.table.total.flops

    @property
    def formula_flops(self) -> int:
        """By the formulas of the layers."""
        return self.table.total.formula_flops

    @property
    def unexplained(self) -> tuple[str, ...]:
        """Layers whose FLOPs the formulas do not give; empty when both counts agree."""
        wrong = [layer.name for layer in self.table.layers if layer.flops != layer.formula_flops]
        return tuple(name for name in wrong if not any(_inside(other, name) for other in wrong))

    @property
    def activation_bytes(self) -> int:
        """Kept by autograd for the backward pass."""
        return self.table.total.activation_bytes


def complexity(
    model: nn.Module,
    example: Example,
    *,
    sizes: Sequence[int] = (),
    build: Callable[[int], nn.Module] | None = None,
) -> Complexity:
    """Count a module's parameters, FLOPs and activation memory on an example, and their growth with its size.

    Nothing is computed; only shapes and types matter, and the module may lie on the meta device. What grows is the
    length of texts (b, n) and sequences (b, n, d), or both sides of images (b, c, h, w): to ``sizes``, or to up to four
    times the example's, or, where the network takes no more, down to a quarter. ``build(size)`` gives a network for
    each size where one network takes only one.

    Raises FieldguideError, with the layer and what it was given, where the module cannot run on the example or on a
    size of ``sizes``.
    """
    arguments = arguments_of(example)
    parameters = list(model.parameters())
    return Complexity(
        sum(parameter.numel() for parameter in parameters),
        sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        layer_table(model, arguments),
        _growth(model, arguments, sizes, build or (lambda size: model)),
    )


def _growth(
    model: nn.Module, example: tuple[Tensor, ...], sizes: Sequence[int], build: Callable[[int], nn.Module]
) -> Growth | None:
    first = example[0] if example else torch.empty(0)
    if first.ndim == 4 and first.is_floating_point():
        axis, now = "image side", first.shape[-1]
    elif first.ndim == 3 or (first.ndim == 2 and not first.is_floating_point()):
        axis, now = "length", first.shape[1]
    elif sizes:
        raise FieldguideError(f"the example, {shown(example)}, has no length and no image side that could grow")
    else:
        return None

    def measure(some: Sequence[int]) -> Growth:
        tables = [layer_table(build(size), tuple(_resized(x, size, now) for x in example)).total for size in some]
        costs = [(table.flops, table.formula_flops, table.activation_bytes) for table in tables]
        return Growth(axis, tuple(some), *(tuple(cost) for cost in zip(*costs, strict=True)))

    if sizes:
        return measure(sorted(set(sizes)))
    for multiples in (LARGER, SMALLER):
        try:
            return measure(sorted({max(1, round(now * multiple)) for multiple in multiples}))
        except FieldguideError:
            continue
    return None


def _resized(x: Tensor, size: int, now: int) -> Tensor:
    """An empty tensor like ``x`` whose length, or whose image, is ``size / now`` times as long."""
    shape = [*x.shape]
    for axis in (2, 3) if x.ndim == 4 else (1,) if x.ndim in (2, 3) else ():
        shape[axis] = max(1, round(shape[axis] * size / now))
    return torch.empty(shape, dtype=x.dtype, device="meta")


def _slope(sizes: Sequence[int], costs: Sequence[int]) -> float:
    """Of log cost over log size; 0 where there is nothing to fit."""
    points = [(log(size), log(cost)) for size, cost in zip(sizes, costs, strict=True) if cost]
    if len(points) < 2:
        return 0.0
    x, y = fmean(x for x, _ in points), fmean(y for _, y in points)
    return sum((a - x) * (b - y) for a, b in points) / sum((a - x) ** 2 for a, _ in points)


def _inside(name: str, of: str) -> bool:
    return name != of and (not of or name.startswith(f"{of}."))
