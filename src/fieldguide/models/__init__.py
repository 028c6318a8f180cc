"""Networks by name: one file is one architecture, and ``create_model`` builds any size in the catalog."""

from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from fieldguide import catalog
from fieldguide.errors import unknown
from fieldguide.models.build import configure, construct, sizes
from fieldguide.models.store import WEIGHTS, is_saved_model, load_model, read_config, save_model
from fieldguide.weights import load_weights
from fieldguide.weights.source import Source

__all__ = ["create_model", "load_model", "read_config", "save_model"]


def create_model(name: str, weights: Source | None = None, **overrides: Any) -> nn.Module:
    """Build a network of the catalog, with random weights or those of a checkpoint.

    ``overrides`` are fields of the family's config: ``create_model("resnet50", num_classes=10, in_channels=1)``.
    ``weights`` is a folder of :func:`save_model`, whose config is then the one to override, or a public checkpoint:
    a state dict, a file, a folder or ``"hub:org/name"``, in any layout that :func:`fieldguide.load_weights` knows. With
    overrides, what they change (the head, the first convolution) is adapted or keeps its random values.

    Raises :class:`FieldguideError` for a name that is not in the catalog or a checkpoint of another network,
    :class:`UnknownField` for an override that the config does not have, :class:`DamagedFile` for a broken file.
    """
    row = catalog.find(name)
    if row is None:
        raise unknown("model", name, catalog.names(), "`fieldguide models` lists all")
    if isinstance(weights, str | PathLike) and is_saved_model(weights):
        stored = read_config(weights, name=name)
        config = configure(stored.config, overrides, name)
        if config == stored.config:
            return load_model(weights).train()
        model, weights = construct(row, config, name), Path(weights) / WEIGHTS
        model.preprocessing = stored.preprocessing  # pyright: ignore[reportArgumentType]
    else:
        config = configure(sizes(row)[name], overrides, name)
        model = construct(row, config, name)
    if weights is not None:
        load_weights(model, weights, strict=not overrides)
    follow: Any = getattr(model, "follow", None)
    if overrides and follow:  # what the user asked for wins over the conventions of a library
        follow(configure(model.config, overrides, name))
    return model
