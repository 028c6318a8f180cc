"""From a catalog row and numbers to a network; wrong names and kinds of value are refused here, once for all models."""

from collections.abc import Mapping
from dataclasses import fields, replace
from importlib import import_module
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from torch import nn

from fieldguide.catalog import Architecture
from fieldguide.errors import FieldguideError, UnknownField, did_you_mean

Config = TypeVar("Config")


def sizes(row: Architecture) -> dict[str, Any]:
    """The configs of a family by public name."""
    return import_module(f"fieldguide.models.{row.module}").SIZES


def default_config(row: Architecture) -> Any:
    """The family's config with the paper's default numbers."""
    return getattr(import_module(f"fieldguide.models.{row.module}"), f"{row.model}Config")()


def configure(config: Config, changes: Mapping[str, Any], where: str) -> Config:
    """A copy of a config with some fields changed; lists become tuples, as they do when they come from JSON or TOML.

    Raises :class:`UnknownField` for a field that the config does not have and :class:`FieldguideError` for a value of
    the wrong kind; ``where`` names the model in both.
    """
    known = {field.name for field in fields(config)}  # pyright: ignore[reportArgumentType]
    for name in changes:
        if name not in known:
            suggestion = did_you_mean(name, known)
            raise UnknownField(f"{where} has no field {name!r}{suggestion}; fields: {', '.join(sorted(known))}")
    kinds = get_type_hints(type(config))
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    for name, value in values.items():
        if not _fits(value, kinds[name]):
            kind = getattr(kinds[name], "__name__", "") if not get_args(kinds[name]) else str(kinds[name])
            raise FieldguideError(f"{name} of {where} must be {kind.removeprefix('typing.')}, got {value!r}")
    return replace(config, **values)  # pyright: ignore[reportArgumentType,reportCallIssue]


def construct(row: Architecture, config: Any, name: str) -> nn.Module:
    """The network of a config with random weights; ``model.name`` keeps the catalog name it was asked for by.

    ``model.preprocessing`` says how images must be prepared, once weights are loaded for which that is known.
    """
    module = import_module(f"fieldguide.models.{row.module}")
    model = getattr(module, row.model)(config)
    model.name, model.preprocessing = name, None
    return model


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated kind: plain types, ``Literal``, unions, ``tuple[X, ...]``, ``tuple[X, X]``."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple) or (parts[-1] is not ... and len(value) != len(parts)):
            return False
        return all(_fits(item, parts[0]) for item in value)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind
