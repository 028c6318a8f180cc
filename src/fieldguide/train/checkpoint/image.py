"""The bytes of a checkpoint on their way to the disk: still those of a live training, or a copy out of its reach."""

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from torch import (
    Tensor,
    _foreach_copy_,  # pyright: ignore[reportPrivateImportUsage]
)

from fieldguide.train.checkpoint.disk import Bytes
from fieldguide.train.checkpoint.tree import DTYPES, Slice, State, encode

__all__ = ["SCHEMA", "Image", "host_room"]

SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class Image:
    """A state, laid out as its two files will hold it.

    Making one raises TypeError naming the path of a value that is neither a tensor nor plain.
    """

    values: Any
    """state.json: fresh lists and dicts that no later step reaches."""
    layout: Sequence[tuple[str, torch.dtype, torch.Size]]
    """What stands in state.safetensors, in this order."""
    tensors: Sequence[Tensor]
    """Its bytes in the same order; the training's own until ``copied``."""
    nbytes: int
    """Of the tensors."""

    places: dict[str, list[Any]]
    """Where it lies in the tensor that it may be a part of, by name: dtype and shape of that, the axis along which it
    is cut, and the first and the count of the entries that are here."""

    @classmethod
    def of(cls, state: State, leads: bool = True) -> "Image":
        """All that this process has; one that does not lead leaves out what the leading one has too."""
        named: dict[str, Slice] = {}
        values = encode(state, (), named, {})
        if not leads:
            parts = {name: part for name, part in named.items() if part.tensor.shape != part.shape}
            named = {name: part for name, part in parts.items() if part.tensor.numel()}
        layout = [(name, part.tensor.dtype, part.tensor.shape) for name, part in named.items()]
        # Widest first, so that every tensor starts at a multiple of its own item size; alike ones are copied together.
        layout.sort(key=lambda item: (-item[1].itemsize, str(item[1])))
        tensors = [named[name].tensor for name, _, _ in layout]
        places = {name: _place(part) for name, part in named.items()}
        nbytes = sum(tensor.nbytes for tensor in tensors)
        return cls(values=values, layout=layout, tensors=tensors, nbytes=nbytes, places=places)

    def copied(self, room: Tensor) -> "Image":
        """The same image with its tensors copied into ``room``, bytes on the host: later updates never reach it."""
        offset = 0
        for dtype, group in groupby(self.tensors, key=lambda tensor: tensor.dtype):
            flat = [tensor.reshape(-1) for tensor in group]
            sizes = [tensor.numel() for tensor in flat]
            end = offset + sum(sizes) * dtype.itemsize
            places = room[offset:end].view(dtype).split(sizes)
            _foreach_copy_(places, flat, non_blocking=True)
            offset = end
        for device in {tensor.device for tensor in self.tensors if not tensor.is_cpu}:
            torch.accelerator.synchronize(device)
        return replace(self, tensors=[room[:offset]])

    def json(self) -> bytes:
        return json.dumps({"schema": SCHEMA, "state": self.values}, allow_nan=False).encode()

    def safetensors(self) -> Iterator[Bytes]:
        """The safetensors format: the header's length, the header, each tensor's bytes; never a second whole copy."""
        yield self._header()
        for tensor in self.tensors:
            whole = tensor.cpu().resolve_conj().resolve_neg().contiguous()
            flat = whole.as_strided((whole.numel(),), (1,))  # a single number may have any stride and be contiguous
            yield memoryview(flat.view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]

    def _header(self) -> bytes:
        header, offset = {}, 0
        for name, dtype, shape in self.layout:
            end = offset + shape.numel() * dtype.itemsize
            header[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
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
