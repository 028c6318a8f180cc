"""Which layout a checkpoint has, judged by its names and shapes; and when none fits, what it looks like instead."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from fieldguide.catalog import ARCHITECTURES
from fieldguide.errors import FieldguideError, unknown
from fieldguide.weights.adapt import Wanted, class_token_and_grid, square
from fieldguide.weights.family import Family, family_named, nearest_size
from fieldguide.weights.grids import Grid
from fieldguide.weights.table import Plan, Table

OWN = "fieldguide"
"""The layout of our own files: a tensor is called what the model calls it."""
_OWN_TABLES = (Table({"*": "*"}),)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A checkpoint under one table, compared with a model."""

    family: Family
    ours: Mapping[str, Tensor]
    """The model's tensors."""
    layout: str
    table: Table
    theirs: dict[str, Tensor]
    """The checkpoint with the table's names."""
    plan: Plan
    arriving: dict[str, Tensor]
    """What arrives under our names, without its values."""
    origins: dict[str, str]
    """Our name → theirs."""
    missing: list[str]
    """Ours that should arrive and do not."""
    surplus: list[str]
    """Ours that arrive and that the model does not have."""
    misshapen: list[str]
    """Ours that arrive in another shape, or as whole numbers where the model has fractions."""
    grid: Grid | None = None
    """How the model's patches lie, if it has any, and how those of the checkpoint do where that is told."""
    their_grid: Grid | None = None

    @property
    def distance(self) -> tuple[int, int]:
        return len(self.missing) + len(self.surplus) + len(self.plan.surplus), len(self.misshapen)

    def values(self, without: Collection[str] = ()) -> dict[str, Tensor]:
        """Their tensors under our names, apart from some of ours; FieldguideError where two of them disagree."""
        for name, first in self.plan.repeats.items():
            if not torch.equal(self.theirs[name], self.theirs[first]):
                raise FieldguideError(f"the checkpoint has two tensors, {name} and {first}, where this model has one")
        for move in self.plan.derived:
            for name, tensor in move(self.theirs).items():
                if not torch.equal(self.theirs[name], tensor):
                    raise FieldguideError(f"the checkpoint's {name} is not what follows from its {move.sources[0]}")
        moves = [move for move in self.plan.moves if not set(move.targets) <= set(without)]
        return {name: tensor for move in moves for name, tensor in move(self.theirs).items() if name not in without}

    def laid_out(self, grid: Grid, their_grid: Grid | None) -> "Fit":
        """The same for a model with these patches: as many in another grid are misshapen too.

        A bare state dict of ours does not tell its grid, and is taken to have the model's.
        """
        tables = [name for name in self.arriving if self.family.adaptation(name) is class_token_and_grid]
        theirs = their_grid or (grid if self.layout == OWN else None)
        other = [name for name in tables if (theirs or square(len(self.arriving[name]) - 1)) != grid]
        misshapen = list(dict.fromkeys([*self.misshapen, *other]))
        return replace(self, grid=grid, their_grid=their_grid, misshapen=misshapen)

    def adapt(self, name: str, tensor: Tensor) -> Tensor | None:
        """A misshapen tensor in the model's shape, or None where the family does not know how."""
        adaptation = self.family.adaptation(name)
        return (
            adaptation(tensor, Wanted(values=self.ours[name], grid=self.grid, their_grid=self.their_grid))
            if adaptation
            else None
        )

    def can_adapt(self, name: str) -> bool:
        return name in self.misshapen and self.adapt(name, self.arriving[name]) is not None


def best_fit(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], family: Family, layout: str | None) -> Fit:
    """The table under which a checkpoint and a model agree best; the first of equals."""
    layouts = {**family.layouts, OWN: _OWN_TABLES}
    if layout is not None and layout not in layouts:
        raise unknown("layout", layout, layouts)
    chosen = layouts if layout is None else {layout: layouts[layout]}
    outlines = {name: tensor.to("meta") for name, tensor in theirs.items()}
    fits: list[Fit] = []
    for prefix, (name, table) in product(_prefixes(theirs), _tables(chosen)):
        fits.append(_fit(family, ours, name, table, _without(prefix, theirs), _without(prefix, outlines)))
        if fits[-1].distance == (0, 0):
            break
    return min(fits, key=lambda fit: fit.distance)


def looks_like(theirs: Mapping[str, Tensor], own_family: str) -> str | None:
    """What a checkpoint is: ``"resnet50 in torchvision layout"``; None when no table knows nine in ten of its names.

    Where tables know as many names, the one under which a size has exactly its parameters wins, then the model's own
    family. The number of parameters is told where it is no published one.
    """
    best, answer = (0.9, False), None
    for name in sorted((row.family for row in ARCHITECTURES), key=lambda name: name != own_family):
        family = family_named(name)
        for (layout, table), prefix in product(_tables(family.layouts), _prefixes(theirs)):
            tensors = table.canonical(_without(prefix, theirs))
            plan = table.plan(tensors)
            known = 1 - len(plan.surplus) / len(tensors)
            if known < best[0]:
                continue
            counts = parameters, _ = _counts(family, plan, tensors)
            size, published = nearest_size(name, counts) or (f"a {name} of {parameters:,} parameters", None)
            if (known, published in counts) > best:
                best, answer = (known, published in counts), f"{size} in {layout} layout"
                if published not in (*counts, None):
                    answer += f", but with {parameters:,} parameters instead of {published:,}"
    return answer


def _counts(family: Family, plan: Plan, tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many parameters a checkpoint has, and would have with a head of 1,000 classes for its own or for none."""
    read = [(move.targets[0], tensors[name]) for move in plan.moves for name in move.sources]
    carried = [(ours, tensor) for ours, tensor in read if tensor.is_floating_point() and ".running_" not in ours]
    heads = [tensor for ours, tensor in carried if family.is_head(ours) and tensor.ndim]
    outputs = heads[-1].shape[0] if heads else 0  # hidden layers have others
    last = [tensor.numel() + 1 for _, tensor in carried[-1:]]  # without a head, the last shift is as long as its input
    per_class = sum(head[:1].numel() for head in heads if head.shape[0] == outputs) if heads else sum(last)
    parameters = sum(tensor.numel() for _, tensor in carried)
    return parameters, parameters + per_class * (1000 - outputs)


def _tables(layouts: Mapping[str, tuple[Table, ...]]) -> Iterator[tuple[str, Table]]:
    return ((layout, table) for layout, tables in layouts.items() for table in tables)


def _prefixes(names: Collection[str]) -> Iterator[str]:
    """Nothing, then what all names begin with, word by word: wrappers add ``module.``, ``_orig_mod.`` or ``model.``"""
    prefix = ""
    while all(len(name) > len(prefix) for name in names):
        yield prefix
        word, *others = {name.removeprefix(prefix).split(".", 1)[0] for name in names}
        if others:
            return
        prefix += f"{word}."


def _without(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _fit(
    family: Family,
    ours: Mapping[str, Tensor],
    layout: str,
    table: Table,
    theirs: dict[str, Tensor],
    outlines: dict[str, Tensor],
) -> Fit:
    outlines = table.canonical(outlines)
    plan = table.plan(outlines)
    arrived: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for move in plan.moves:
        try:
            arrived |= move(outlines)
        except (ValueError, RuntimeError, IndexError):  # the row cannot change this shape, so it is compared as it is
            arrived |= dict.fromkeys(move.targets, outlines[move.sources[0]])
        origins |= dict.fromkeys(move.targets, ", ".join(move.sources))
    return Fit(
        family=family,
        ours=ours,
        layout=layout,
        table=table,
        theirs=table.canonical(theirs),
        plan=plan,
        arriving=arrived,
        origins=origins,
        missing=[name for name in ours if name not in arrived and table.why_missing(name) is None],
        surplus=[name for name in arrived if name not in ours],
        misshapen=[name for name in arrived if name in ours and not _alike(arrived[name], ours[name])],
    )


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.is_floating_point() == other.is_floating_point()
