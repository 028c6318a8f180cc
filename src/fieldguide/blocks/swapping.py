"""Another mathematics or another mask for the attention of a network, whose projections keep their weights."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass

from torch import nn

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
    new: tuple[str, ...]
    """Parameters and buffers that the network did not have, so that no weights were loaded for them."""
    gone: tuple[str, ...]
    """Those of the old cores."""

    def __str__(self) -> str:
        lines = [f"{len(self.changed)} attentions changed: {', '.join(self.changed)}"]
        lines += [f"new, not trained: {', '.join(self.new)}"] * bool(self.new)
        lines += [f"gone: {', '.join(self.gone)}"] * bool(self.gone)
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
    for attention, new in cores.items():
        attention.core = new
        attention.mask = attention.mask if mask is None else mask
        attention.dropout = attention.dropout if dropout is None else dropout
    after = model.state_dict(keep_vars=True)
    return Swap(tuple(chosen.values()), _only_in(after, before), _only_in(before, after))


def swapped(model: nn.Module, original: nn.Module) -> list[str]:
    """The Attention modules whose core or mask is not that of the network as its config builds it."""
    ours, theirs = ({name: _choices(m) for name, m in net.named_modules()} for net in (model, original))
    return [name for name, choices in ours.items() if choices != theirs.get(name)]


def _choices(module: nn.Module) -> tuple[str, Mask] | None:
    return (repr(module.core), module.mask) if isinstance(module, Attention) else None


def _fitted(
    attention: Attention, core: Core | None, mask: Mask | None, dropout: float | None, shared: Bias | None
) -> Core:
    """The core that an Attention will have, asked whether it can do what will be asked of it."""
    if mask is not None:
        require_structure(mask)
        if _is_causal(attention.mask) and not _is_causal(mask):
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


def _biases_of_stacks(model: nn.Module) -> dict[nn.Module, Bias]:
    """The Attention modules whose bias belongs to their stack."""
    stacks = [module for module in model.modules() if isinstance(module, Stack) and module.bias is not None]
    return {layer.attention: stack.bias for stack in stacks for layer in stack.layers}  # pyright: ignore


def _is_causal(mask: Mask) -> bool:
    return any(isinstance(part, Causal) for part in (mask.terms if isinstance(mask, And) else (mask,)))


def _in_brackets(mask: Mask) -> str:
    return f"({mask})" if " " in str(mask) else str(mask)
