"""Keys and values of earlier tokens, kept between decoding steps.

One cache serves one batch of sequences through a whole model. It is an argument of ``forward``, never module state:

    cache = DynamicCache()
    logits = model(prompt, cache=cache)      # many tokens at once
    logits = model(token, cache=cache)       # the next one, which attends to all before it

Every ``Attention`` finds its entry under itself, so a model hands one cache to all its layers and counts nothing. (One
Attention called twice within a forward would need two caches.)

Axes: b batch, g key/value heads, n tokens, c head width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F

from fieldguide.blocks.masks import Mask
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Int, Tensor


class KeysValues(NamedTuple):
    """Keys and values (b, g, n, c) of the tokens that may be attended, and how many earlier ones are gone."""

    keys: Tensor
    values: Tensor
    dropped: int = 0

    @property
    def length(self) -> int:
        """Tokens seen so far, dropped ones included."""
        return self.dropped + self.keys.shape[2]

    def map(self, change: Callable[[Tensor], Tensor]) -> "KeysValues":
        return KeysValues(change(self.keys), change(self.values), self.dropped)

    def followed_by(self, k: Tensor, v: Tensor) -> "KeysValues":
        return KeysValues(torch.cat((self.keys, k), 2), torch.cat((self.values, v), 2), self.dropped)


@runtime_checkable
class Layer(Protocol):
    """What a cache knows of the Attention that uses it: who it is and how far back it looks."""

    def reach(self) -> float:
        """How far before a query keys still matter; infinite where all do."""
        ...


class Cache:
    """Keeps nothing: what attention computes without a cache, and what every cache can be asked."""

    @property
    def length(self) -> int:
        """Tokens seen before this forward; the position of the next one."""
        return 0

    def seen(self, layer: Layer) -> int:
        """Tokens that this layer has seen."""
        return 0

    def extend(self, layer: Layer, k: Tensor, v: Tensor) -> KeysValues:
        """Takes the keys and values (b, g, n, c) of new tokens; returns all that these tokens may attend to."""
        return KeysValues(k, v)

    def recall(self, layer: Layer, memory: Tensor, compute: Callable[[Tensor], tuple[Tensor, Tensor]]) -> KeysValues:
        """Keys and values of an encoder's output, computed once for as long as ``memory`` is the same tensor."""
        return KeysValues(*compute(memory))

    def reorder(self, indices: Int[Tensor, "new"]) -> None:
        """Row i goes on from what row ``indices[i]`` has seen, as beam search needs; the batch may change its size.

        An encoder's memory is the caller's: where rows change source, pass ``memory[indices]`` from then on.
        """


class DynamicCache(Cache):
    """Grows as needed, by one copy a step."""

    def __init__(self):
        self._kept: dict[Layer, KeysValues] = {}
        self._recalled: dict[Layer, tuple[Tensor, KeysValues]] = {}

    @property
    def length(self) -> int:
        return max((kept.length for kept in self._kept.values()), default=0)

    def seen(self, layer: Layer) -> int:
        return self._kept[layer].length if layer in self._kept else 0

    def extend(self, layer: Layer, k: Tensor, v: Tensor) -> KeysValues:
        kept = self._kept.get(layer)
        if kept is not None and len(kept.keys) != len(k):
            raise FieldguideError(
                f"{type(self).__name__}: holds a batch of {len(kept.keys)} sequences, got {len(k)}; "
                "start a new cache for another batch"
            )
        return self._append(layer, kept, k, v)

    def _append(self, layer: Layer, kept: KeysValues | None, k: Tensor, v: Tensor) -> KeysValues:
        self._kept[layer] = KeysValues(k, v) if kept is None else kept.followed_by(k, v)
        return self._kept[layer]

    def recall(self, layer: Layer, memory: Tensor, compute: Callable[[Tensor], tuple[Tensor, Tensor]]) -> KeysValues:
        if layer not in self._recalled or self._recalled[layer][0] is not memory:
            self._recalled[layer] = memory, KeysValues(*compute(memory))
        return self._recalled[layer][1]

    def reorder(self, indices: Int[Tensor, "new"]) -> None:
        self._kept = {layer: kept.map(lambda x: x.index_select(0, indices)) for layer, kept in self._kept.items()}


class StaticCache(DynamicCache):
    """Room for ``max_len`` tokens taken once and written in place: no copy a step, and no memory beyond that.

    For decoding without gradients. Raises FieldguideError when it is full.
    """

    def __init__(self, max_len: int):
        super().__init__()
        self.max_len = max_len
        self._rooms: dict[Layer, KeysValues] = {}

    def _append(self, layer: Layer, kept: KeysValues | None, k: Tensor, v: Tensor) -> KeysValues:
        start, end = self.seen(layer), self.seen(layer) + k.shape[2]
        if end > self.max_len:
            raise FieldguideError(
                f"StaticCache: no room for token {end}, it was made for max_len={self.max_len}; make it longer"
            )
        if kept is None:
            self._rooms[layer] = KeysValues(k, v).map(lambda x: x.new_empty(*x.shape[:2], self.max_len, x.shape[3]))
        room = self._rooms[layer]
        room.keys.narrow(2, start, end - start).copy_(k)
        room.values.narrow(2, start, end - start).copy_(v)
        self._kept[layer] = KeysValues(room.keys.narrow(2, 0, end), room.values.narrow(2, 0, end))
        return self._kept[layer]

    def reorder(self, indices: Int[Tensor, "new"]) -> None:
        self._rooms = {layer: room.map(lambda x: x.index_select(0, indices)) for layer, room in self._rooms.items()}
        self._kept = {
            layer: self._rooms[layer].map(lambda x, end=kept.length: x[:, :, :end])
            for layer, kept in self._kept.items()
        }


class RollingCache(DynamicCache):
    """``places`` tokens, the newest always last, in the same memory: begun from what another cache has seen.

    The places before the first token hold zeros, which the caller's ``keep`` hides. Every step has the same shapes and
    addresses, so a GPU can replay it. For decoding without gradients.
    """

    def __init__(self, cache: DynamicCache, places: int):
        super().__init__()
        self.places, self._recalled = places, cache._recalled
        self._kept = {layer: kept.map(self._aligned) for layer, kept in cache._kept.items()}

    def _aligned(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 0, self.places - x.shape[2], 0))

    @property
    def length(self) -> int:
        return self.places - 1

    @property
    def state(self) -> list[Tensor]:
        """What a step changes."""
        return [x for kept in self._kept.values() for x in (kept.keys, kept.values)]

    def _append(self, layer: Layer, kept: KeysValues | None, k: Tensor, v: Tensor) -> KeysValues:
        assert kept is not None, "a layer that took no part in the first step"
        for old, new in ((kept.keys, k), (kept.values, v)):
            old.copy_(torch.cat((old[:, :, new.shape[2] :], new), 2))
        return kept


class SlidingCache(DynamicCache):
    """Keeps, in each layer, only the tokens that its mask can still reach: ``size`` − 1 for ``Window(size)``.

    Layers whose mask reaches everything keep everything, so a model that alternates local and global layers (GPT-Neo)
    needs no other cache, and nothing visible is ever dropped.
    """

    def _append(self, layer: Layer, kept: KeysValues | None, k: Tensor, v: Tensor) -> KeysValues:
        everything = super()._append(layer, kept, k, v)
        excess = int(max(everything.keys.shape[2] - layer.reach(), 0))
        trimmed = everything.map(lambda x: x[:, :, excess:].clone() if excess else x)
        self._kept[layer] = trimmed._replace(dropped=everything.dropped + excess)
        return everything


@dataclass(frozen=True, repr=False)
class Later(Mask):
    """A mask for a sequence whose first ``by`` tokens are gone: position 0 stands for position ``by``."""

    mask: Mask
    by: int

    @classmethod
    def of(cls, mask: Mask, by: int) -> Mask:
        """The mask itself where nothing is gone or only distances count."""
        return mask if by == 0 or mask.relative else cls(mask, by)

    @property
    def depends_on(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.mask.depends_on

    @property
    def extent(self) -> tuple[int, int]:
        return self.mask.extent

    def check(self, batch: int, q_len: int, k_len: int) -> None:
        self.mask.check(batch, q_len, k_len + self.by)

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return self.mask.visible(b, h, q + self.by, k + self.by)
