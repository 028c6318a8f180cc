"""Networks by name: one file is one architecture, and ``create_model`` builds any size in the catalog."""

from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from fieldguide import catalog
from fieldguide.errors import unknown
from fieldguide.models.build import configure, construct, sizes
from fieldguide.models.store import load_model, load_tensors, read_config, save_model

__all__ = ["create_model", "load_model", "read_config", "save_model"]


def create_model(name: str, weights: str | PathLike[str] | None = None, **overrides: Any) -> nn.Module:
    """Build a network of the catalog, with random weights or those of a file.

    ``overrides`` are fields of the family's config: ``create_model("resnet50", num_classes=10, in_channels=1)``.
    ``weights`` is what :func:`save_model` wrote: a folder, whose config is then the one to override, or a bare
    ``.safetensors`` file with this model's own tensor names.

    Raises :class:`FieldguideError` for a name that is not in the catalog, :class:`UnknownField` for an override that
    the config does not have, :class:`DamagedFile` for weights that do not belong to this model.
    """
    row = catalog.find(name)
    if row is None:
        raise unknown("model", name, catalog.names(), "`fieldguide models` lists all")
    config = sizes(row)[name]
    if weights is None:
        return construct(row, configure(config, overrides, name), name)
    source = Path(weights)
    if source.is_dir():
        config = read_config(source, name=name).config
    model = construct(row, configure(config, overrides, name), name)
    load_tensors(model, source / "model.safetensors" if source.is_dir() else source)
    return model
