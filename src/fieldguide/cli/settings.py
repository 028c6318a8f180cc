"""The recipe's fields as options: ``--optimizer.lr 3e-4`` has the name, type and help of ``OptimizerRecipe.lr``."""

from collections.abc import Iterator
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from typing import Annotated, Any, get_type_hints

from cyclopts import Parameter
from docstring_parser import parse_from_object

from fieldguide.train.recipe import Recipe


def options_of(tree: type) -> type:
    """A dataclass with the fields of ``tree`` in which every leaf may be left out: None means "not given"."""
    help_of = {entry.arg_name: entry.description for entry in parse_from_object(tree).params}
    hints = get_type_hints(tree)
    described = []
    for part in fields(tree):
        kind = hints[part.name]
        if is_dataclass(kind):
            nested = options_of(kind)  # pyright: ignore[reportArgumentType]
            described.append((part.name, nested, field(default_factory=nested)))
        else:
            shown = Parameter(
                help=_help(help_of.get(part.name), _default(part)), show_default=False, negative=_negative(kind)
            )
            described.append((part.name, Annotated[kind, shown], None))
    options = make_dataclass(f"{tree.__name__}Options", described, frozen=True, kw_only=True)
    options.__module__ = __name__
    return options


def given(options: Any) -> dict[str, Any]:
    """Only what the user asked for, nested as in a recipe file: ``{"optimizer": {"lr": 3e-4}}``."""
    return dict(_given(options))


def _given(options: Any) -> Iterator[tuple[str, Any]]:
    for part in fields(options):
        value = getattr(options, part.name)
        if is_dataclass(value):
            value = given(value) or None
        if value is not None:
            yield part.name, value


def _default(part: Any) -> object:
    return part.default if part.default_factory is MISSING else "none"


def _help(text: str | None, default: object) -> str:
    return f"{(text or '').replace('`', '')} [default: {'off' if default is False else default}]".strip()


def _negative(kind: object) -> tuple[str, ...] | None:
    return None if kind is bool else ()


RecipeOptions = options_of(Recipe)
