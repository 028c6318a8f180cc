"""The bytes of a checkpoint on their way to the disk: still those of a live training, or a copy out of its reach."""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from errno import EFBIG
from itertools import groupby
from operator import attrgetter
from typing import Any

import torch
from torch import (
    Tensor,
    _foreach_copy_,  # pyright: ignore[reportPrivateImportUsage]
)

from fieldguide.bounded import MB, parse_json
from fieldguide.train.checkpoint.disk import Bytes
from fieldguide.train.checkpoint.tree import DTYPES, Slice, State, encode, whole

__all__ = ["JSON_LIMIT", "SCHEMA", "Image", "host_room"]

SCHEMA = 2
JSON_LIMIT = 64 * MB
"""Of each file that is no tensors; a longer one is not read back."""
_ORDER = {dtype: (-dtype.itemsize, name) for dtype, name in DTYPES.items()}
"""Widest first, so that every tensor starts at a multiple of its own item size; alike ones are copied together."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """A state, laid out as its two files will hold it.

    Making one raises TypeError naming the path of a value that is neither a tensor nor plain. It is made while the
    training waits, so what only the writing needs is found out then.
    """

    values: Any
    """state.json: fresh lists and dicts that no later step reaches."""
    parts: Mapping[str, Tensor | Slice]
    """What stands in state.safetensors, in this order: dtypes and shapes; the numbers are in ``tensors``."""
    tensors: Sequence[Tensor]
    """Its bytes in the same order; the training's own until ``copied``."""
    nbytes: int
    """Of the tensors."""

    @classmethod
    def of(cls, state: State, leads: bool = True) -> "Image":
        """All that this process has; one that does not lead leaves out what the leading one has too."""
        named: dict[str, Tensor | Slice] = {}
        values = encode(state, "", named, {})
        if not leads:
            slices = {name: part for name, part in named.items() if isinstance(part, Slice) and part.tensor.numel()}
            named = {name: part for name, part in slices.items() if part.tensor.shape != part.shape}
        held = [(name, part.tensor if isinstance(part, Slice) else part) for name, part in named.items()]
        held.sort(key=lambda entry: _ORDER[entry[1].dtype])
        return cls(
            values=values,
            parts={name: named[name] for name, _ in held},
            tensors=[tensor for _, tensor in held],
            nbytes=sum(tensor.nbytes for _, tensor in held),
        )

    @torch.no_grad()
    def copied(self, room: Tensor) -> "Image":
        """The same image with its tensors copied into ``room``, bytes on the host: later updates never reach it."""
        offset = 0
        for dtype, group in groupby(self.tensors, key=attrgetter("dtype")):
            flat = [tensor.reshape(-1) for tensor in group]
            sizes = [tensor.numel() for tensor in flat]
            end = offset + sum(sizes) * dtype.itemsize
            places = room[offset:end].view(dtype).split(sizes)
            _foreach_copy_(places, flat, non_blocking=True)
            offset = end
        for device in {tensor.device for tensor in self.tensors if not tensor.is_cpu}:
            torch.accelerator.synchronize(device)
        return replace(self, tensors=[room[:offset]])

    @property
    def places(self) -> dict[str, list[Any]]:
        """Where it lies in the tensor that it may be a part of, by name: dtype and shape of that, the axis along which
        it is cut, and the first and the count of the entries that are here."""
        return {name: _place(whole(part)) for name, part in self.parts.items()}

    def json(self) -> bytes:
        """The bytes of state.json; raises OSError where a resume would refuse them."""
        text = json.dumps({"schema": SCHEMA, "state": self.values}, allow_nan=False).encode()
        try:
            if len(text) > JSON_LIMIT:
                raise ValueError(f"it is larger than {JSON_LIMIT // MB:,} MB")
            parse_json(text)
        except ValueError as problem:
            raise OSError(EFBIG, f"state.json is refused, as it could not be read back: {problem}") from problem
        return text

    def safetensors(self) -> Iterator[Bytes]:
        """The safetensors format: the header's length, the header, each tensor's bytes; never a second whole copy."""
        yield self._header()
        for tensor in self.tensors:
            plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
            flat = plain.as_strided((plain.numel(),), (1,))  # a single number may have any stride and be contiguous
            yield memoryview(flat.view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]

    def _header(self) -> bytes:
        header, offset = {}, 0
        for name, part in self.parts.items():
            tensor = whole(part).tensor
            end = offset + tensor.nbytes
            header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text


def _place(part: Slice) -> list[Any]:
    count = part.tensor.shape[part.axis] if part.shape else 1
    return [DTYPES[part.tensor.dtype], [*part.shape], part.axis, part.start, count]


def host_room(image: Image, room: Tensor | None) -> Tensor:
    """Host memory that holds the image's tensors: ``room`` if it is large enough, for warm memory is copied to fastest.

    Page-locked when there is something to fetch from an accelerator.
    """
    if room is not None and room.nbytes >= image.nbytes:
        return room
    locked = any(not tensor.is_cpu for tensor in image.tensors)
    return torch.empty(image.nbytes, dtype=torch.uint8, pin_memory=locked)
