"""Checkpoints that are either whole or not there: safetensors, JSON and a manifest of checksums.

A checkpoint is a folder that never changes once it has its name. It is written under a temporary name, every file and
the folder are synced to disk, and one ``rename`` makes it appear. A run keeps several of them::

    checkpoints/
      0007-step-000420/   state.safetensors  state.json  manifest.json
      0008-step-000480/
      last -> 0008-step-000480
      best -> 0007-step-000420

The newest and the best are found by looking at the numbered folders (their serial number, and ``best`` in the
manifest), so nothing depends on the links: they are for people, are replaced atomically, and a file system without
links loses only them. Whatever moment the process or the machine dies at, the previous folders are untouched.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import stat
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fieldguide.errors import DamagedFile, FieldguideError

__all__ = ["Checkpoints", "Manifest", "Restored", "State", "load", "read_manifest", "save", "sync_folder"]

State = Any
"""A tree of dicts (str or int keys), lists and tuples with tensors, numbers, strings, booleans and None as leaves."""

SCHEMA = 1
TENSORS, VALUES, MANIFEST = "state.safetensors", "state.json", "manifest.json"
_MANIFEST_LIMIT = 1 << 16
_NUMBERED = re.compile(r"(\d+)-step-(\d+)")
_DTYPES = {  # the names of the safetensors format
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.complex64: "C64", torch.bool: "BOOL",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8",
}  # fmt: skip


# ---------------------------------------------------------------------------------------------- one checkpoint


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint says about itself; sealed by a checksum of its own."""

    step: int
    best: bool
    files: dict[str, dict[str, Any]]
    """``{name: {"size": bytes, "sha256": hex}}``."""


def save(folder: Path, state: State, *, step: int = 0, best: bool = False) -> None:
    """Write ``state`` as a new checkpoint: afterwards it is on the disk whole, or nothing has changed.

    Tied tensors are stored once and come back tied; tensors of any device, stride and dtype of the safetensors format
    are accepted. Raises FieldguideError when ``folder`` exists (checkpoints are immutable), TypeError naming the path
    of a value that is neither a tensor nor plain, and OSError when the disk refuses.
    """
    folder = Path(folder)
    if folder.exists():
        raise FieldguideError(f"checkpoint {folder} exists already, and checkpoints never change; choose another name")
    tensors: dict[str, Tensor] = {}
    values = {"schema": SCHEMA, "state": _encode(state, (), tensors, {})}
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of an earlier failure that could not even be cleared away
        os.mkdir(temporary)
        files = {
            TENSORS: _write(temporary / TENSORS, _safetensors(tensors)),
            VALUES: _write(temporary / VALUES, [json.dumps(values, allow_nan=False).encode()]),
        }
        _write(temporary / MANIFEST, [_seal({"schema": SCHEMA, "step": step, "best": best, "files": files})])
        sync_folder(temporary)
        os.rename(temporary, folder)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):  # a failed write does not know its file
            error.filename, error.filename2 = str(folder), None
        raise
    sync_folder(folder.parent)


def load(folder: Path) -> State:
    """Read a checkpoint back, bit for bit, with its tensors on the CPU.

    Every file's size and SHA-256 is compared with the manifest before any content is believed. Raises DamagedFile
    naming the file and what is wrong with it.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    present = {name for name in os.listdir(folder) if not name.startswith(".")}
    for name in sorted(present - {*manifest.files, MANIFEST}):
        raise DamagedFile(f"{folder / name} does not belong to this checkpoint: the manifest does not list it")
    for name, expected in manifest.files.items():
        _verify(folder / name, expected)
    try:
        # Clones, because the file is only mapped: a run must not go on living on pages of a file it will delete.
        tensors = {key: tensor.clone() for key, tensor in load_file(folder / TENSORS).items()}
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise _damaged(folder / TENSORS, f"not a safetensors file ({_one_line(error)})") from error
    try:
        values = json.loads((folder / VALUES).read_bytes())
        if values.keys() != {"schema", "state"} or values["schema"] != SCHEMA:
            raise ValueError(f"schema is not {SCHEMA}")
        used: set[str] = set()
        state = _decode(values["state"], tensors, used)
        if used != tensors.keys():
            raise ValueError(f"tensors that no value refers to: {sorted(tensors.keys() - used)[:3]}")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(folder / VALUES, _one_line(error)) from error
    return state


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint; raises DamagedFile unless it is exactly what was written."""
    path = Path(folder) / MANIFEST
    if not os.path.isdir(folder):
        raise DamagedFile(f"there is no checkpoint at {folder}")
    _require_plain_file(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(_MANIFEST_LIMIT)
        content = json.loads(raw)
        if raw != _seal({key: content[key] for key in ("schema", "step", "best", "files")}):
            raise ValueError("its own checksum does not fit")
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r} instead of {SCHEMA}: written by another version")
        manifest = Manifest(step=content["step"], best=content["best"], files=content["files"])
        sizes = [(type(entry["size"]), type(entry["sha256"]), len(entry)) for entry in manifest.files.values()]
        if manifest.files.keys() != {TENSORS, VALUES} or sizes != [(int, str, 2)] * 2:
            raise ValueError("it lists other files than a checkpoint has")
        if type(manifest.step) is not int or type(manifest.best) is not bool:
            raise ValueError("step and best have the wrong type")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError) as error:
        raise _damaged(path, _one_line(error)) from error
    named = _NUMBERED.fullmatch(Path(folder).name)
    if named and int(named[2]) != manifest.step:
        raise _damaged(path, f"it is of step {manifest.step}, not of step {int(named[2])}")
    return manifest


# ------------------------------------------------------------------------------------------ the checkpoints of a run


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A checkpoint that was read back, and what was wrong with the newer ones that were passed over."""

    state: State
    step: int
    folder: Path
    refused: list[str] = field(default_factory=list)


class Checkpoints:
    """The numbered checkpoints of one run: the newest ``keep`` and the newest best one are kept.

    One process at a time may write (RunFolder's lock sees to it).
    """

    def __init__(self, folder: Path, keep: int = 2):
        if keep < 2:
            raise FieldguideError(
                f"keep={keep}: at least 2 checkpoints are kept, so that a damaged one can be replaced"
            )
        self.folder, self.keep = Path(folder), keep

    def save(self, state: State, *, step: int, best: bool = False) -> Path:
        """Write the next checkpoint, point ``last`` (and ``best``) at it, remove the ones no longer needed.

        Raises OSError when the disk refuses; what was saved before stays as it was.
        """
        self.folder.mkdir(exist_ok=True)
        numbered = self.numbered()
        serial = 1 + max((_serial(path) for path in numbered), default=0)
        path = self.folder / f"{serial:04d}-step-{step:06d}"
        save(path, state, step=step, best=best)
        self._point("last", path)
        if best:
            self._point("best", path)
        self._prune([*numbered, path])
        return path

    def numbered(self) -> list[Path]:
        """The checkpoints, oldest first."""
        with contextlib.suppress(FileNotFoundError):
            found = [path for path in self.folder.iterdir() if _NUMBERED.fullmatch(path.name)]
            return sorted(found, key=_serial)
        return []

    def best(self) -> Path | None:
        """The newest checkpoint that was saved as the best one so far."""
        return next((path for path in reversed(self._candidates()) if _is_best(path)), None)

    def newest(self, check: Callable[[State], None] | None = None) -> Restored | None:
        """Read the newest good checkpoint; None when the run has none at all.

        ``check`` may refuse a whole state for reasons of its own (another architecture) with a FieldguideError.
        Raises DamagedFile with every reason when there are checkpoints and none can be believed.
        """
        refused: list[str] = []
        candidates = self._candidates()
        for path in reversed(candidates):
            try:
                state = load(path)
                if check:
                    check(state)
                return Restored(state=state, step=read_manifest(path).step, folder=path, refused=refused)
            except DamagedFile as error:
                refused.append(str(error))
            except (FieldguideError, OSError) as error:
                refused.append(f"{path} was refused: {_one_line(error)}")
        if candidates:
            raise DamagedFile(f"no checkpoint in {self.folder} can be believed: {'; '.join(refused)}")
        return None

    def clean(self, keep_until: Path | None = None) -> None:
        """Remove what a process that died has left; set aside, as ``damaged-…``, what is newer than ``keep_until``.

        Call it with the run's lock held and, on resume, with the checkpoint that was restored.
        """
        if not self.folder.is_dir():
            return
        for path in self.folder.glob(".*"):
            _remove(path)
        if keep_until is None:
            return
        numbered = self.numbered()
        for path in numbered[numbered.index(keep_until) + 1 :] if keep_until in numbered else numbered:
            os.rename(path, _free(path.with_name(f"damaged-{path.name}")))
        if keep_until in numbered:
            self._point("last", keep_until)
        best = self.best()
        if best is not None and _NUMBERED.fullmatch(best.name):
            self._point("best", best)

    def _candidates(self) -> list[Path]:
        # A copy made without links (an archive, a cloud drive) has `last` and `best` as folders; they count as oldest.
        copies = [self.folder / name for name in ("best", "last")]
        return [path for path in copies if path.is_dir() and not path.is_symlink()] + self.numbered()

    def _point(self, name: str, target: Path) -> None:
        link, temporary = self.folder / name, self.folder / f".{name}.tmp"
        if link.is_dir() and not link.is_symlink():
            os.rename(link, _free(self.folder / f".{name}.old"))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        try:
            os.symlink(target.name, temporary, target_is_directory=True)
        except (PermissionError, NotImplementedError):  # a file system without links
            return
        os.replace(temporary, link)
        sync_folder(self.folder)

    def _prune(self, numbered: list[Path]) -> None:
        wanted = {*numbered[-self.keep :], self.best()}
        for path in numbered:
            if path not in wanted:
                # Renamed first: a removal that is cut short must not look like a damaged checkpoint.
                doomed = path.with_name(f".{path.name}.old")
                with contextlib.suppress(OSError):  # tried again after the next save
                    os.rename(path, doomed)
                    shutil.rmtree(doomed)


def _serial(path: Path) -> int:
    return int(path.name.split("-")[0])


def _is_best(path: Path) -> bool:
    try:
        return read_manifest(path).best
    except DamagedFile:
        return False


def _free(path: Path) -> Path:
    """``path``, or ``path`` with the first number that nobody uses."""
    names = (path if n == 1 else path.with_name(f"{path.name}.{n}") for n in range(1, 1_000_000))
    return next(name for name in names if not os.path.lexists(name))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


# ------------------------------------------------------------------------------------------------ tree ↔ JSON


def _encode(value: State, path: tuple[str, ...], tensors: dict[str, Tensor], seen: dict[Any, str]) -> Any:
    """JSON for ``value``; its tensors go to ``tensors`` under their path, tied ones (``seen``) once.

    What JSON cannot say is an object with one ``$`` key: $tensor, $tuple, $float (nan, inf), $dict (other keys).
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"$float": repr(float(value))}
    if isinstance(value, Tensor):
        return {"$tensor": _enter(value, path, tensors, seen)}
    if isinstance(value, list | tuple):
        items = [_encode(item, (*path, str(i)), tensors, seen) for i, item in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, dict) and all(isinstance(key, str | int) for key in value):
        pairs = [[key, _encode(item, (*path, str(key)), tensors, seen)] for key, item in value.items()]
        plain = all(isinstance(key, str) and not key.startswith("$") for key in value)
        return dict(pairs) if plain else {"$dict": pairs}
    raise TypeError(
        f"cannot save {'/'.join(path) or 'the state'}: {type(value).__name__} is neither a tensor nor plain"
    )


def _enter(tensor: Tensor, path: tuple[str, ...], tensors: dict[str, Tensor], seen: dict[Any, str]) -> str:
    name = "/".join(path) or "state"
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized or tensor.dtype not in _DTYPES:
        raise TypeError(f"cannot save {name}: {tensor.dtype} {tensor.layout} on {tensor.device} has no file format")
    tensor = tensor.detach()
    identity = (
        *(tensor.device, tensor.dtype, tensor.data_ptr(), tuple(tensor.shape), tensor.stride()),
        *(tensor.is_conj(), tensor.is_neg()),
    )
    if tensor.numel() and identity in seen:
        return seen[identity]
    while name in tensors or name == "__metadata__":  # keys may contain slashes; 0 and "0" look alike
        name += "'"
    seen[identity], tensors[name] = name, tensor
    return name


def _decode(value: Any, tensors: dict[str, Tensor], used: set[str]) -> State:
    if isinstance(value, list):
        return [_decode(item, tensors, used) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value)) if len(value) == 1 else None
    match value:
        case {"$tensor": str(name)} if tag == "$tensor":
            used.add(name)
            return tensors[name]
        case {"$tuple": list(items)} if tag == "$tuple":
            return tuple(_decode(item, tensors, used) for item in items)
        case {"$float": "nan" | "inf" | "-inf" as number} if tag == "$float":
            return float(number)
        case {"$dict": list(pairs)} if tag == "$dict":
            return {key: _decode(item, tensors, used) for key, item in pairs}
    if any(key.startswith("$") for key in value):
        raise ValueError(f"unknown entry {next(iter(value))!r}")
    return {key: _decode(item, tensors, used) for key, item in value.items()}


# ------------------------------------------------------------------------------------------------ bytes ↔ disk


def _safetensors(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """The safetensors format: the header's length, the header, each tensor's bytes; the whole is never in memory."""
    header, offset = {}, 0
    # Widest first, so that every tensor starts at a multiple of its own item size.
    ordered = sorted(tensors.items(), key=lambda item: -item[1].element_size())
    for name, tensor in ordered:
        end = offset + tensor.nbytes
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for _, tensor in ordered:
        whole = tensor.cpu().resolve_conj().resolve_neg().contiguous()
        flat = whole.as_strided((whole.numel(),), (1,))  # a single number may have any stride and count as contiguous
        yield memoryview(flat.view(torch.uint8).numpy())  # pyright: ignore[reportArgumentType]


def _write(path: Path, chunks: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write and sync a new file; its size and SHA-256, which a second thread computes while the disk is busy."""
    digest, size, hashed = hashlib.sha256(), 0, []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with ThreadPoolExecutor(1) as hasher:
            for chunk in chunks:
                hashed.append(hasher.submit(digest.update, chunk))
                size += len(chunk)
                rest = memoryview(chunk)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
            for update in hashed:
                update.result()
    finally:
        os.close(descriptor)
    return {"size": size, "sha256": digest.hexdigest()}


def sync_folder(folder: Path) -> None:
    """Bring to the disk which names a folder holds: without it a new file may be gone after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_plain_file(path: Path) -> os.stat_result:
    try:
        status = os.lstat(path)
    except FileNotFoundError as error:
        raise DamagedFile(f"{path} is missing") from error
    if not stat.S_ISREG(status.st_mode):
        raise _damaged(path, "not a plain file")
    return status


def _verify(path: Path, expected: dict[str, Any]) -> None:
    size = _require_plain_file(path).st_size
    if size != expected["size"]:
        raise _damaged(path, f"{size:,} bytes instead of {expected['size']:,}")
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _damaged(path, _one_line(error)) from error
    if digest != expected["sha256"]:
        raise _damaged(path, "its SHA-256 is not the one in the manifest")


def _seal(content: dict[str, Any]) -> bytes:
    """The manifest's bytes: its content in one fixed layout and, last, that content's SHA-256."""
    body = json.dumps(content, indent=2, sort_keys=True)
    return json.dumps(
        {**content, "~seal": hashlib.sha256(body.encode()).hexdigest()}, indent=2, sort_keys=True
    ).encode()


def _damaged(path: Path, why: str) -> DamagedFile:
    return DamagedFile(f"{path} is damaged: {why}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
