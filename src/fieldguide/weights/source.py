"""Where weights come from: a state dict, a file, a folder of shards, or a repository of the Hugging Face Hub."""

import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from fieldguide.bounded import MB, read_json
from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.weights.files import PICKLES, SAFETENSORS, one_line, plain_state_dict, read_tensors

Source = Mapping[str, Any] | str | PathLike[str]
"""A state dict, bare or as a training script wraps it, or where to find one."""

HUB = "hub:"
_USUAL = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_DESCRIPTIONS = ("config.json", "preprocessor_config.json")
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.")


def read_source(source: Source) -> dict[str, Tensor]:
    """All tensors of a source under the names that they have there.

    A string that begins with ``hub:`` – ``"hub:org/name"`` or ``"hub:org/name@revision"`` – is the only one that uses
    the network. Raises :class:`FieldguideError` for a source that does not exist, :class:`DamagedFile` for one that
    cannot be believed.
    """
    if isinstance(source, Mapping):
        return plain_state_dict(source, "the given state dict")
    path = place_of(source)
    if path is None or not path.exists():
        raise FieldguideError(f"there are no weights at {path}; give a file, a folder, or {HUB}org/name")
    return _read_folder(path) if path.is_dir() else _read_file(path)


def place_of(source: Source) -> Path | None:
    """The file or folder of a source, downloaded where it is of the Hub and not yet here; None for a state dict."""
    if isinstance(source, Mapping):
        return None
    if isinstance(source, str) and source.startswith(HUB):
        return _download(source.removeprefix(HUB))
    return Path(source)


def describe(source: Source) -> str:
    return "a state dict" if isinstance(source, Mapping) else str(source)


def _read_folder(folder: Path) -> dict[str, Tensor]:
    """The usual names first, safetensors before pickles; otherwise the only weights file that is there."""
    usual = next((folder / name for name in _USUAL if (folder / name).exists()), None)
    if usual is not None:
        return _read_file(usual)
    for endings in ((SAFETENSORS,), PICKLES):
        files = sorted(path for path in folder.iterdir() if path.suffix in endings)
        if len(files) == 1:
            return _read_file(files[0])
        if files:
            listing = ", ".join(path.name for path in files[:5]) + (", …" if len(files) > 5 else "")
            raise FieldguideError(f"{folder} holds {len(files)} weights files ({listing}); name one of them")
    raise FieldguideError(f"{folder} holds no weights; expected one of {', '.join(_USUAL)}")


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".json":
        return _read_sharded(path)
    if shard := _SHARD.search(path.name):
        raise FieldguideError(f"{path} is one of {int(shard[1])} shards; give the folder or the .index.json of all")
    return read_tensors(path)


def _read_sharded(index: Path) -> dict[str, Tensor]:
    """The tensors of every shard that an index lists, and no others."""
    entries = read_json(index, most=100 * MB)
    where = entries.get("weight_map") if isinstance(entries, dict) else None
    if not isinstance(where, dict) or not where or not all(isinstance(shard, str) for shard in where.values()):
        raise DamagedFile(f"{index} is not the index of a sharded checkpoint: it has no weight_map")
    shards = sorted(set(where.values()))
    for shard in shards:
        if not shard or Path(shard).name != shard or "\\" in shard:
            raise DamagedFile(f"{index} points outside its folder, to {shard!r}; refused")
    missing = [shard for shard in shards if not (index.parent / shard).exists()]
    if missing:
        raise DamagedFile(
            f"{index.parent} is part of a checkpoint: {len(missing)} of {len(shards)} shards are missing "
            f"({', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}); copy or download them"
        )
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        held, listed = read_tensors(index.parent / shard), {name for name, file in where.items() if file == shard}
        if held.keys() != listed:
            different = sorted(held.keys() ^ listed)
            raise DamagedFile(f"{index.parent / shard} and the index disagree about {len(different)} tensors, "
                              f"the first is {different[0]}; the files are of different checkpoints")  # fmt: skip
        tensors |= held
    return tensors


def _download(address: str) -> Path:
    """The folder of a Hub repository in the local cache; pickles are fetched only when there are no safetensors."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise FieldguideError(f'{HUB}{address} needs the extra "hub": pip install "fieldguide[hub]"') from error
    repository, _, revision = address.partition("@")
    try:
        for patterns in (["*.safetensors", "*.safetensors.index.json"], ["*.bin", "*.bin.index.json"]):
            wanted = [*patterns, *_DESCRIPTIONS]
            folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=wanted))
            if {path.name for path in folder.iterdir()} - {*_DESCRIPTIONS}:
                break
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FieldguideError(f"cannot fetch {HUB}{address}: {one_line(error)}") from error
    return folder
