"""From a catalog row and numbers to a network; wrong names and kinds of value are refused here, once for all models."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from importlib import import_module
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fieldguide.catalog import Architecture
from fieldguide.errors import FieldguideError, UnknownField, did_you_mean

Config = TypeVar("Config")
DRAWING = {
    *(Tensor.normal_, Tensor.uniform_),
    *(nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_),
    *(nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.xavier_normal_, nn.init.xavier_uniform_),
}


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
        if not fits(value, kinds[name]):
            kind = getattr(kinds[name], "__name__", "") if not get_args(kinds[name]) else str(kinds[name])
            raise FieldguideError(f"{name} of {where} must be {kind.removeprefix('typing.')}, got {value!r}")
    return replace(config, **values)  # pyright: ignore[reportArgumentType,reportCallIssue]


def construct(row: Architecture, config: Any, name: str) -> nn.Module:
    """The network of a config with random weights; ``model.name`` keeps the catalog name it was asked for by.

    ``model.preprocessing`` says how images must be prepared, once weights are loaded for which that is known.
    """
    module = import_module(f"fieldguide.models.{row.module}")
    with _NothingDrawn() if torch.get_default_device().type == "meta" else nullcontext():
        model = getattr(module, row.model)(config)
    model.name, model.preprocessing = name, None
    return model


class _NothingDrawn(TorchFunctionMode):
    """Spares what has no numbers the drawing of them, for which PyTorch would first load its compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in DRAWING:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotated kind, as data have them: plain types, ``Literal``, unions, tuples, lists."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple) or (parts[-1] is not ... and len(value) != len(parts)):
            return False
        return all(fits(item, parts[0]) for item in value)
    if origin in (list, Sequence):
        return isinstance(value, list) and all(fits(item, parts[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind
