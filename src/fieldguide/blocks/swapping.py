"""Another mathematics or another mask for the attention of a network, whose projections keep their weights."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import nn

from fieldguide.blocks import core_text, mask_text
from fieldguide.blocks.attention import Attention, require_structure
from fieldguide.blocks.biases import Bias
from fieldguide.blocks.cores import Core
from fieldguide.blocks.masks import And, Causal, Mask
from fieldguide.blocks.selection import select
from fieldguide.blocks.transformer import Stack
from fieldguide.errors import FieldguideError
from fieldguide.shapes import Tensor


@dataclass(frozen=True)
class Swap:
    """What :func:`swap_attention` did; ``print(swap)`` says it in a few lines."""

    changed: tuple[str, ...]
    """The Attention modules, by name."""
    kept: tuple[str, ...]
    """Their parameters and buffers that are what they were: the projections above all."""
    new: tuple[str, ...]
    """Parameters and buffers that the network did not have, so that no weights were loaded for them."""
    gone: tuple[str, ...]
    """Those of the old cores."""
    undropped: tuple[str, ...] = ()
    """The Attention modules that dropped weights in training and do so no more."""

    def __str__(self) -> str:
        lines = [f"{len(self.changed)} attentions changed: {_few(self.changed)}"]
        lines += [f"kept: {_few(self.kept)}"] * bool(self.kept)
        lines += [f"new, not trained: {_few(self.new)}"] * bool(self.new)
        lines += [f"gone: {_few(self.gone)}"] * bool(self.gone)
        lines += [f"dropout of attention weights is 0 now: {_few(self.undropped)}"] * bool(self.undropped)
        return "\n".join(lines)


def swap_attention(
    model: nn.Module,
    core: Core | None = None,
    *,
    mask: Mask | None = None,
    dropout: float | None = None,
    where: str = "*",
) -> Swap:
    """Another core for every Attention that a pattern (``blocks.selection``) selects, or that is in what it selects.

    Each gets a copy of ``core`` of its own, made for its head width, on its device and of its type; with ``mask``
    another structure of visibility, with ``dropout`` another probability that a weight is dropped. What is None stays.
    The projections keep their weights; how well these serve a new core is for training or a measurement to say.

        swap_attention(model, core=Performer(features=256), where="layers.*")
        swap_attention(model, mask=Window(512) | Global([0]))

    Raises FieldguideError, before anything changes, for a pattern that selects no Attention, a mask that would let a
    causal Attention see the future, and what the core cannot honour of an Attention's mask, bias and dropout.
    """
    if core is None and mask is None and dropout is None:
        raise FieldguideError("swap_attention: give a core, a mask or a dropout to change to")
    if core is not None and not isinstance(core, Core):
        raise FieldguideError(
            f"swap_attention: {core!r} is not a core; fieldguide.blocks.cores has them, Performer(256)"
        )
    chosen: dict[Attention, str] = {}
    for name, attention in select(model, where, Attention).items():
        chosen.setdefault(attention, name)  # one in several places goes by its first name
    shared = _biases_of_stacks(model)
    cores: dict[Attention, Core] = {}
    for attention, name in chosen.items():
        try:
            cores[attention] = _fitted(attention, core, mask, dropout, shared.get(attention))
        except FieldguideError as error:
            raise FieldguideError(f"swap_attention: {name or type(model).__name__}: {error}") from None
    before = model.state_dict(keep_vars=True)
    undropped = tuple(name for attention, name in chosen.items() if attention.dropout and dropout == 0)
    for attention, new in cores.items():
        attention.core = new
        attention.mask = attention.mask if mask is None else mask
        attention.dropout = attention.dropout if dropout is None else dropout
    after = model.state_dict(keep_vars=True)
    new, gone = _only_in(after, before), _only_in(before, after)
    inside = tuple(f"{name}." if name else "" for name in chosen.values())
    kept = tuple(name for name in after if name.startswith(inside) and name not in new)
    return Swap(tuple(chosen.values()), kept, new, gone, undropped)


def swaps_of(model: nn.Module, original: nn.Module) -> list[dict[str, str | float]]:
    """How a network's attention differs from that of the network its config builds, as plain values for a file.

    Entries ``where, core, mask, dropout`` for :func:`swap_attention`, texts where these have one. ``original``, which
    may be on the meta device, is changed by them. Raises FieldguideError for what no text describes: a core of another
    class, and one whose learned parts several places share.
    """
    theirs = {name: _choices(module) for name, module in original.named_modules() if isinstance(module, Attention)}
    places: dict[tuple[str, Mask, float], list[str]] = {}
    owners: dict[nn.Module, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, Attention) and _choices(module) != theirs.get(name):
            for part in module.core.modules():
                if name != owners.setdefault(part, name):
                    raise FieldguideError(f"{name} shares its core, or a part of it, with {owners[part]}")
            try:
                places.setdefault((core_text.written(module.core), module.mask, module.dropout), []).append(name)
            except FieldguideError as error:
                raise FieldguideError(f"{name}: {error}") from None
    swaps = [
        {
            "where": "*" if len(names) == len(theirs) else "|".join(names),
            "core": core,
            "mask": repr(mask),
            "dropout": float(dropout),
        }
        for (core, mask, dropout), names in places.items()
    ]
    with torch.random.fork_rng(devices=[]):  # whoever saves a network in training must not disturb it
        swap_again(original, swaps)
    return swaps


def swap_again(model: nn.Module, swaps: Sequence[Mapping[str, str | float]]) -> None:
    """Give a network the attention that :func:`swaps_of` wrote down. Raises FieldguideError for what it cannot be."""
    for swap in swaps:
        where, dropout = str(swap["where"]), float(swap["dropout"])
        core, mask = core_text.parse(str(swap["core"])), mask_text.parse(str(swap["mask"]))
        swap_attention(model, core, mask=mask, dropout=dropout, where=where)


def _choices(attention: Attention) -> tuple[str, Mask, float]:
    return repr(attention.core), attention.mask, attention.dropout


def _fitted(
    attention: Attention, core: Core | None, mask: Mask | None, dropout: float | None, shared: Bias | None
) -> Core:
    """The core that an Attention will have, asked whether it can do what will be asked of it."""
    if mask is not None:
        require_structure(mask)
        if is_causal(attention.mask) and not is_causal(mask):
            raise FieldguideError(f"it is causal and would see the future; use mask=Causal() & {_in_brackets(mask)}")
    new = attention.core if core is None else deepcopy(core)
    new.require(
        attention.mask if mask is None else mask,
        attention.bias if shared is None else shared,
        attention.dropout if dropout is None else dropout,
    )
    if new is not attention.core:
        new.fit(attention.head_dim)
        new.to(attention.query.weight).train(attention.training)
    return new


def _only_in(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> tuple[str, ...]:
    return tuple(name for name, tensor in one.items() if other.get(name) is not tensor)


def _few(names: Sequence[str], shown: int = 3) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _biases_of_stacks(model: nn.Module) -> dict[nn.Module, Bias]:
    """The Attention modules whose bias belongs to their stack."""
    stacks = [module for module in model.modules() if isinstance(module, Stack) and module.bias is not None]
    return {layer.attention: stack.bias for stack in stacks for layer in stack.layers}  # pyright: ignore


def is_causal(mask: Mask) -> bool:
    """Whether a mask hides the future, as far as its form says."""
    return any(isinstance(part, Causal) for part in (mask.terms if isinstance(mask, And) else (mask,)))


def _in_brackets(mask: Mask) -> str:
    return f"({mask})" if " " in str(mask) else str(mask)
