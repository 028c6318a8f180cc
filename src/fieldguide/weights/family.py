"""What is known about the public weights of one family: its layouts, and what fine-tuning may change in it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn

from fieldguide.catalog import ARCHITECTURES
from fieldguide.errors import unknown
from fieldguide.weights.adapt import Wanted
from fieldguide.weights.table import Table

Adaptation = Callable[[Tensor, Wanted], Tensor | None]
"""``(their tensor, what it is to become) → their tensor as that``, or None when that makes no sense."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family's layouts by library; where its sizes differ in structure there are several tables, and one fits."""

    name: str
    layouts: Mapping[str, tuple[Table, ...]] = field(default_factory=dict)
    head: tuple[str, ...] = ("head.*",)
    """Shell patterns of our names that belong to the published task and that fine-tuning begins anew."""
    adapt: Mapping[str, Adaptation] = field(default_factory=dict)
    """Shell pattern of our names → how such a tensor is made to fit another shape."""
    conventions: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    """Layout → shell pattern of catalog names → fields of the model's config that its library fixes and that no file
    holds, such as ``norm_eps``; later patterns add to earlier ones."""

    def is_head(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.head)

    def adaptation(self, name: str) -> Adaptation | None:
        return next((change for pattern, change in self.adapt.items() if fnmatchcase(name, pattern)), None)

    def conventions_of(self, layout: str, size: str) -> dict[str, Any]:
        """What a library fixes for the size of this catalog name."""
        patterns = self.conventions.get(layout, {}).items()
        return {name: value for sizes, fields in patterns if fnmatchcase(size, sizes) for name, value in fields.items()}


def family_named(name: str) -> Family:
    """The tables in ``fieldguide.weights.<name>``; a family without public weights has none."""
    module = f"fieldguide.weights.{name}"
    return import_module(module).FAMILY if find_spec(module) else Family(name=name)


def family_of(model: nn.Module, name: str | None = None) -> Family:
    """The family of a model of the catalog, or the one called ``name``; one without layouts for other models."""
    known = [row.family for row in ARCHITECTURES]
    if name is not None and name not in known:
        raise unknown("family", name, known)
    kinds = {(f"fieldguide.models.{row.module}", row.model): row.family for row in ARCHITECTURES}
    kind = (type(model).__module__, type(model).__name__)
    return family_named(name or kinds.get(kind, kind[1]))


def nearest_size(family: str, counts: Collection[int]) -> tuple[str, int] | None:
    """The catalog name and parameters of the size nearest to one of some counts (within 10 %), or None."""
    sizes = [(name, size) for row in ARCHITECTURES if row.family == family for name, size in row.sizes.items()]
    difference, (name, size) = min((abs(size - count), (name, size)) for name, size in sizes for count in counts)
    return (name, size) if difference <= 0.1 * size else None
