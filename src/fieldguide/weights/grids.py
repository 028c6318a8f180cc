"""How the patches of an image lie, for tables of positions that must fit another image.

A table has one row for each patch and does not say how many stand side by side. The configuration beside the weights
does; without one, public networks see squares.
"""

from pathlib import Path

from torch import nn

from fieldguide.bounded import read_json

Grid = tuple[int, int]
"""Rows and columns of patches."""


def grid_of(model: nn.Module) -> Grid | None:
    """The grid of a model that has ``patches``."""
    return getattr(getattr(model, "patches", None), "grid", None)


def grid_beside(place: Path | None) -> Grid | None:
    """The grid that ``config.json``, ours or that of transformers, tells."""
    folder = place if place is None or place.is_dir() else place.parent
    file = folder and folder / "config.json"
    entries = read_json(file) if file and file.is_file() else {}
    match entries.get("config", entries) if isinstance(entries, dict) else {}:
        case {"image_size": [int(height), int(width)], "patch_size": int(patch)} if patch > 0:
            return height // patch, width // patch
        case {"image_size": int(side), "patch_size": int(patch)} if patch > 0:
            return side // patch, side // patch
    return None
