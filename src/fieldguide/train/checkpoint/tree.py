"""A state as JSON and named tensors, and back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["DTYPES", "Slice", "State", "decode", "encode", "whole"]

State = Any
"""A tree of dicts (str or int keys), lists and tuples with tensors, numbers, strings, booleans and None as leaves."""

Seen = dict[int, list[str]]
"""The names of the tensors that begin at an address."""
DTYPES = {  # the names of the safetensors format
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64", torch.bool: "BOOL",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Slice:
    """This process's part of a tensor that many hold together; a tensor of its own is the whole."""

    tensor: Tensor
    shape: torch.Size
    """Of the whole."""
    axis: int = 0
    """Along which it is cut."""
    start: int = 0
    """The first of the entries along it that are here."""


_TENSORS, _KEYS, _PLAIN, _ROWS = (Tensor, Slice), (str, int), (bool, int, str), (list, tuple)  # asked of every leaf


def encode(value: State, path: str, tensors: dict[str, Tensor | Slice], seen: Seen) -> Any:
    """JSON for ``value``; its tensors go to ``tensors`` under their path, tied ones (``seen``) once.

    What JSON cannot say is an object with one ``$`` key: $tensor, $tuple, $float (nan, inf), $dict (other keys).
    """
    if isinstance(value, _TENSORS):
        return {"$tensor": _enter(value, path, tensors, seen)}
    if isinstance(value, dict) and all(isinstance(key, _KEYS) for key in value):
        plain = all(isinstance(key, str) and key[:1] != "$" for key in value)
        coded = {key: encode(item, f"{path}/{key}", tensors, seen) for key, item in value.items()}
        return coded if plain else {"$dict": [[key, item] for key, item in coded.items()]}
    if value is None or isinstance(value, _PLAIN):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, _ROWS):
        items = [encode(item, f"{path}/{i}", tensors, seen) for i, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    raise TypeError(f"cannot save {path[1:] or 'the state'}: {type(value).__name__} is neither a tensor nor plain")


def whole(part: Tensor | Slice) -> Slice:
    """A tensor of its own as the slice of itself."""
    return part if isinstance(part, Slice) else Slice(part, part.shape)


def _enter(part: Tensor | Slice, path: str, tensors: dict[str, Tensor | Slice], seen: Seen) -> str:
    name, tensor = path[1:] or "state", part.tensor if isinstance(part, Slice) else part
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.dtype not in DTYPES:
        raise TypeError(f"cannot save {name}: {tensor.dtype} {tensor.layout} on {tensor.device} has no file format")
    neighbours = seen.setdefault(tensor.data_ptr(), [])
    for other in neighbours:
        if _tied(tensor, whole(tensors[other]).tensor):
            return other
    while name in tensors or name == "__metadata__":  # keys may contain slashes; 0 and "0" look alike
        name += "'"
    neighbours.append(name)
    tensors[name] = part
    return name


def _tied(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors that begin at the same address are the same numbers in the same memory."""
    alike = a.device == b.device and a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
    return alike and a.is_conj() == b.is_conj() and a.is_neg() == b.is_neg() and a.numel() > 0


def decode(value: Any, tensors: Mapping[str, Any], used: set[str]) -> State:
    """What ``encode`` was given, with whatever ``tensors`` has for its tensors, whose names are added to ``used``."""
    if isinstance(value, list):
        return [decode(item, tensors, used) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value)) if len(value) == 1 else None
    match value:
        case {"$tensor": str(name)} if tag == "$tensor":
            used.add(name)
            return tensors[name]
        case {"$tuple": list(items)} if tag == "$tuple":
            return tuple(decode(item, tensors, used) for item in items)
        case {"$float": "nan" | "inf" | "-inf" as number} if tag == "$float":
            return float(number)
        case {"$dict": list(pairs)} if tag == "$dict":
            return {key: decode(item, tensors, used) for key, item in pairs}
    if any(key.startswith("$") for key in value):
        raise ValueError(f"unknown entry {next(iter(value))!r}")
    return {key: decode(item, tensors, used) for key, item in value.items()}
