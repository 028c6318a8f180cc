"""Networks by name: one file is one architecture, and ``create_model`` builds any size in the catalog."""

from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from fieldguide import catalog
from fieldguide.blocks.attention import Attention
from fieldguide.blocks.cores import Core
from fieldguide.blocks.masks import Mask
from fieldguide.blocks.swapping import is_causal, swap_attention
from fieldguide.errors import FieldguideError, unknown
from fieldguide.models.build import configure, construct, sizes
from fieldguide.models.store import WEIGHTS, is_saved_model, load_model, read_config, save_model
from fieldguide.weights import load_weights
from fieldguide.weights.source import Source

__all__ = ["create_model", "load_model", "read_config", "save_model"]


def create_model(
    name: str, weights: Source | None = None, *, core: Core | None = None, mask: Mask | None = None, **overrides: Any
) -> nn.Module:
    """Build a network of the catalog, with random weights or those of a checkpoint.

    ``overrides`` are fields of the family's config: ``create_model("resnet50", num_classes=10, in_channels=1)``.
    ``weights`` is a folder of :func:`save_model`, whose config is then the one to override, or a public checkpoint:
    a state dict, a file, a folder or ``"hub:org/name"``, in any layout that :func:`fieldguide.load_weights` knows. With
    overrides, what they change (the head, the first convolution, positions, the vocabulary) is adapted or keeps its
    random values; ``model.loaded`` is the report.

    ``core`` and ``mask`` then change every attention (:func:`fieldguide.swap_attention`), whose projections keep what
    was loaded: ``create_model("bert_base", core=Performer(features=256))``; ``model.swap`` says what is new. Dropout of
    attention weights ends where the core forms none.

    Raises :class:`FieldguideError` for a name that is not in the catalog, a checkpoint of another network, or a core or
    mask that the network cannot have, :class:`UnknownField` for an override that the config does not have,
    :class:`DamagedFile` for a broken file.
    """
    row = catalog.find(name)
    if row is None:
        raise unknown("model", name, catalog.names(), "`fieldguide models` lists all")
    if isinstance(weights, str | PathLike) and is_saved_model(weights):
        stored = read_config(weights, name=name)
        config = configure(stored.config, overrides, name)
        if config == stored.config:
            return _swapped(load_model(weights).train(), core, mask)
        model, weights = stored.network(config), Path(weights) / WEIGHTS
    else:
        config = configure(sizes(row)[name], overrides, name)
        model: Any = construct(row, config, name)
    if weights is not None:
        model.loaded = load_weights(model, weights, strict=not overrides)
    follow: Any = getattr(model, "follow", None)
    if overrides and follow:  # what the user asked for wins over the conventions of a library
        follow(configure(model.config, overrides, name))
    return _swapped(model, core, mask)


def _swapped(model: Any, core: Core | None, mask: Mask | None) -> nn.Module:
    if core is None and mask is None:
        return model
    attentions = {name: module for name, module in model.named_modules() if isinstance(module, Attention)}
    if not attentions:
        raise FieldguideError(f"{model.name} has no attention, so core and mask mean nothing to it")
    causal = [name for name, attention in attentions.items() if is_causal(attention.mask)]
    if mask is not None and 0 < len(causal) < len(attentions):
        raise FieldguideError(
            f"{model.name} has several kinds of attention, {causal[0]} is causal and {next(iter(attentions))} is not: "
            'no mask suits all; create it, then swap_attention(model, mask=…, where="encoder")'
        )
    dropout = None if core is None or getattr(core, "drops", True) else 0.0
    model.swap = swap_attention(model, core, mask=mask, dropout=dropout)
    return model
