"""A trained network in a folder: ``config.json`` says what to build, ``model.safetensors`` holds the weights.

Configuration is data with a closed schema: a key too many or too few is refused. Nothing here can execute code.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import count
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from fieldguide import __version__
from fieldguide.blocks.lora import has_adapters
from fieldguide.blocks.swapping import swap_again, swaps_of
from fieldguide.bounded import open_plain, read_json
from fieldguide.catalog import ARCHITECTURES, Architecture
from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.models.build import configure, construct, default_config
from fieldguide.models.schema import (
    PREPROCESSING_SCHEMA,
    SCHEMA,
    SWAP_SCHEMA,
    disagreement,
    listing,
    require,
    require_data,
)
from fieldguide.weights.files import read_safetensors
from fieldguide.weights.preprocessing import Preprocessing

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOKENIZER = {"tokenizer.json", "special_tokens_map.json"}
_HARMLESS = 1 << 24
"""Numbers of a network that is built even where its weights cannot be: the message about them says more."""
_MOST_MODULES = 5000
"""Of a network in a file: three times those of the largest in the catalog."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What ``config.json`` says: the network's name, its family's row and config, and the data it was trained on."""

    name: str
    row: Architecture
    config: Any
    data: dict[str, Any] | None
    """``kind`` and the keys of its schema: how to prepare an input and how to read the answer."""
    preprocessing: Preprocessing | None
    """Of the public weights that the network began with."""
    swaps: list[dict[str, Any]]
    """Attention that is not as the config says: ``where, core, mask, dropout`` of :func:`swap_attention`."""
    sha256: str
    """Of ``model.safetensors``."""
    version: str
    """Of the fieldguide that wrote it."""

    def network(self, config: Any = None) -> nn.Module:
        """The network with random values, or one like it with another config. Raises :class:`DamagedFile`."""
        model = construct(self.row, self.config if config is None else config, self.name)
        model.preprocessing = self.preprocessing  # pyright: ignore[reportArgumentType]
        try:
            swap_again(model, self.swaps)
        except FieldguideError as error:
            raise DamagedFile(f"the swaps of {self.name} in {CONFIG}: {error}") from error
        return model


def save_model(
    model: nn.Module,
    folder: str | PathLike[str],
    *,
    extra: Mapping[str, Any] | None = None,
    tokenizer: Mapping[str, str] | None = None,
) -> None:
    """Write a network of the catalog to a folder; a folder that ``save_model`` wrote earlier is replaced as a whole.

    ``extra={"data": {...}}`` adds how the training data were prepared, ``kind`` and exactly its keys in
    ``DATA_SCHEMAS``; ``tokenizer`` maps the names in ``TOKENIZER`` to the texts of files that are to lie beside the
    weights.
    Everything is written to a temporary sibling first, so that a full disk leaves the old folder as it was.
    Raises :class:`FieldguideError` for another kind of module or key, :class:`OSError` when the disk refuses.
    """
    folder, row = Path(folder), _row_of(model)
    if has_adapters(model):
        raise FieldguideError("save_model: the model has LoRA adapters; fold them in with merge_lora(model) first")
    with torch.device("meta"):
        original = construct(row, model.config, row.family)
    try:
        swaps = swaps_of(model, original)
    except FieldguideError as error:
        raise FieldguideError(
            f"save_model: {error}, so the model could not be loaded again; keep the state dict with safetensors, "
            "or swap back"
        ) from error
    added = {"data": None} | json.loads(json.dumps(dict(extra or {})))  # as it will be read: tuples become lists
    require(added, {"data": SCHEMA["data"]}, "extra of save_model", FieldguideError)
    if added["data"] is not None:
        require_data(added["data"], 'extra["data"] of save_model', FieldguideError)
    if folder.exists() and not {path.name for path in folder.iterdir()} <= {CONFIG, WEIGHTS, *TOKENIZER}:
        raise FieldguideError(f"{folder} holds other files than a saved model; choose a folder of its own")
    tensors = save({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()})
    config = {
        "fieldguide": __version__,
        "name": getattr(model, "name", row.family),
        "family": row.family,
        "config": asdict(model.config),  # pyright: ignore[reportArgumentType]
        "preprocessing": asdict(model.preprocessing) if model.preprocessing else None,  # pyright: ignore
        "swaps": swaps,
        **added,
        "sha256": hashlib.sha256(tensors).hexdigest(),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Two renames: whenever the process dies, at least one whole folder, old or new, is there.
    fresh, retired = (folder.with_name(f".{folder.name}.{os.getpid()}.{part}") for part in ("new", "old"))
    try:
        fresh.mkdir()
        _write(fresh / WEIGHTS, tensors)
        for name, text in (tokenizer or {}).items():
            _write(fresh / name, text.encode())
        _write(fresh / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(retired)
    fresh.rename(folder)
    shutil.rmtree(retired, ignore_errors=True)


def load_model(folder: str | PathLike[str]) -> nn.Module:
    """The network that :func:`save_model` wrote, bit for bit, in evaluation mode.

    Raises :class:`DamagedFile` when a file is missing, damaged, or belongs to something else.
    """
    folder = Path(folder)
    stored = read_config(folder)
    model = stored.network()
    load_tensors(model, folder / WEIGHTS, sha256=stored.sha256)
    return model.eval()


def _require_modest(stored: Stored, folder: Path) -> None:
    """Before any memory is taken: the config describes a network, and none far too large for its weights."""
    modules = count(1)

    def limit(*registered: object) -> None:
        if next(modules) > _MOST_MODULES:
            raise ValueError(f"it has more than {_MOST_MODULES:,} modules")

    path, size = folder / WEIGHTS, (folder / WEIGHTS).stat().st_size if (folder / WEIGHTS).is_file() else 0
    watch = register_module_module_registration_hook(limit)
    try:
        with torch.device("meta"):
            numbers = sum(tensor.numel() for tensor in stored.network().state_dict().values())
    except Exception as error:  # a stranger's numbers can make a constructor fail in any way
        reason = " ".join(str(error).split())[:200]
        raise DamagedFile(f"{folder / CONFIG}: no network can be built from its config ({reason})") from error
    finally:
        watch.remove()
    if not size // 8 - _HARMLESS <= numbers <= size + _HARMLESS:
        raise DamagedFile(
            f"{folder / CONFIG} describes a network of {numbers:,} numbers, and {path.name} has {size:,} bytes"
        )


def is_saved_model(folder: str | PathLike[str]) -> bool:
    """Whether :func:`save_model` wrote this folder; other libraries, too, put a ``config.json`` beside weights."""
    try:
        return "fieldguide" in read_json(Path(folder) / CONFIG)
    except (DamagedFile, TypeError):
        return False


def read_config(folder: str | PathLike[str], *, name: str | None = None) -> Stored:
    """What a saved folder holds, without reading its weights; ``name`` demands that model and no other.

    Raises :class:`DamagedFile` for anything but the closed schema that :func:`save_model` writes.
    """
    path = Path(folder) / CONFIG
    entries = read_json(path)
    if isinstance(entries, dict):
        entries = {"swaps": [], **entries}  # files from before there were any
    require(entries, SCHEMA, str(path), DamagedFile)
    if name not in (None, entries["name"]):
        raise DamagedFile(f"{path} holds {entries['name']!r}, not {name!r}; create that model or choose other weights")
    row = next((row for row in ARCHITECTURES if row.family == entries["family"]), None)
    if row is None:
        version = entries["fieldguide"]
        raise DamagedFile(
            f"{path} is of family {entries['family']!r}, which this fieldguide lacks (written by {version})"
        )
    default = default_config(row)
    require(entries["config"], dict.fromkeys(asdict(default), Any), f"config in {path}", DamagedFile)
    if entries["data"] is not None:
        require_data(entries["data"], f"data in {path}", DamagedFile)
    if entries["preprocessing"] is not None:
        require(entries["preprocessing"], PREPROCESSING_SCHEMA, f"preprocessing in {path}", DamagedFile)
    for swap in entries["swaps"]:
        require(swap, SWAP_SCHEMA, f"swaps in {path}", DamagedFile)
    try:
        config = configure(default, entries["config"], f"the config in {path}")
        preprocessing = Preprocessing.of(entries["preprocessing"]) if entries["preprocessing"] else None
    except FieldguideError as error:
        raise DamagedFile(str(error)) from error
    except (ValueError, TypeError) as error:
        raise DamagedFile(f"preprocessing in {path}: {error}") from error
    if problem := disagreement(config, entries["data"]):
        raise DamagedFile(f"data in {path}: {problem}")
    stored = Stored(
        name=entries["name"],
        row=row,
        config=config,
        data=entries["data"],
        preprocessing=preprocessing,
        swaps=entries["swaps"],
        sha256=entries["sha256"],
        version=entries["fieldguide"],
    )
    _require_modest(stored, Path(folder))
    return stored


def load_tensors(model: nn.Module, path: Path, *, sha256: str | None = None) -> None:
    """Fill a network with the tensors of a ``.safetensors`` file that has exactly its names and shapes.

    Raises :class:`DamagedFile` that lists missing, surplus and misshapen tensors, or names the damage.
    """
    try:
        with open_plain(path) as file:
            found = sha256 and hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise DamagedFile(f"{path} is damaged: its contents changed after it was written; restore or retrain it")
    except OSError as error:
        raise DamagedFile(f"cannot read {path}: {error.strerror or error}") from error
    tensors = read_safetensors(path)
    own = model.state_dict()
    problems = listing("missing", own.keys() - tensors.keys()) + listing("surplus", tensors.keys() - own.keys())
    problems += [
        f"{name} is {_said(tensors[name])} in the file and {_said(own[name])} in the model"
        for name in own
        if name in tensors and not _alike(tensors[name], own[name])
    ][:3]
    if problems:
        raise DamagedFile(f"{path} does not fit {getattr(model, 'name', type(model).__name__)}: {'; '.join(problems)}")
    model.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)


def _row_of(model: nn.Module) -> Architecture:
    home = type(model).__module__
    for row in ARCHITECTURES:
        if home == f"fieldguide.models.{row.module}" and type(model).__name__ == row.model:
            return row
    raise FieldguideError(f"save_model stores networks of the catalog, {type(model).__name__} is none of them")


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.is_floating_point() == b.is_floating_point()


def _said(tensor: Tensor) -> str:
    return (
        f"{tuple(tensor.shape)}" if tensor.is_floating_point() else f"{tuple(tensor.shape)} of {str(tensor.dtype)[6:]}"
    )


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
