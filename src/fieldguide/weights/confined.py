"""A stranger's file is read in a process of its own, which has little memory and time and hands back tensors only.

Torch's restricted reader executes nothing it was not taught, but it is a large program that eats whatever bytes it is
given: its own process keeps what goes wrong in it – memory, time, a crash – away from the training. The process is a
fork, which costs milliseconds where a new interpreter would import torch for seconds; what it hands back is a
safetensors file that it wrote itself, gone when the tensors are.
"""

import json
import os
import resource
import select
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fieldguide.errors import DamagedFile, FieldguideError

Reader = Callable[[Path], dict[str, Tensor]]

ROOM = 1 << 28
"""Bytes of memory beyond twice the file's size: once read, once as it is written."""
SECONDS = 30.0
"""Of processor and of wall time, and one more for every ``SPEED`` bytes."""
SPEED = 20_000_000
_MESSAGE_LIMIT = 1 << 24


def confined(reader: Reader, path: Path) -> dict[str, Tensor]:
    """What ``reader`` makes of a file, made in a process of its own; tied tensors come back tied.

    Raises:
        DamagedFile: ``reader`` does, or it takes more memory or time than a file of this size can need.
        FieldguideError: ``reader`` does.
    """
    size = path.stat().st_size if path.is_file() else 0
    with tempfile.TemporaryDirectory(prefix="fieldguide-") as folder:
        out = Path(folder) / "tensors.safetensors"
        said = _in_a_fork(lambda: _convert(reader, path, out, size), size)
        if said is None:
            raise DamagedFile(
                f"{path} was refused: reading it took more memory or time than a file of {size:,} bytes can need; "
                "ask its author for a safetensors file"
            )
        if "problem" in said:
            raise (DamagedFile if said["damaged"] else FieldguideError)(said["problem"])
        tensors = load_file(out) if out.exists() else {}
    return {name: tensors[place] for name, place in said["places"].items()}


def _convert(reader: Reader, path: Path, out: Path, size: int) -> dict[str, Any]:
    """In the fork: the tensors written, each once, and which of them each name means."""
    try:
        tensors = reader(path)
        places: dict[tuple[Any, ...], str] = {}
        meant = {}
        for name, tensor in tensors.items():
            storage = tensor.untyped_storage().data_ptr() if tensor.numel() else name
            where = (storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
            meant[name] = places.setdefault(where, name)
        unique = {name: tensors[name] for name in places.values()}
        needed = sum(tensor.nbytes for tensor in unique.values())
        if needed > size:  # an expanded view: a few bytes that say they are many
            raise DamagedFile(f"{path} is refused: its tensors have {needed:,} bytes and the file {size:,}")
        save_file({name: tensor.contiguous() for name, tensor in unique.items()}, out)
        return {"places": meant}
    except FieldguideError as problem:
        return {"problem": str(problem), "damaged": isinstance(problem, DamagedFile)}


def _in_a_fork(work: Callable[[], dict[str, Any]], size: int) -> dict[str, Any] | None:
    """What ``work`` returns; None when it died, ran out of what it may use, or was slow."""
    seconds = SECONDS + size / SPEED
    receiving, sending = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads: the fork calls nothing that they hold
        child = os.fork()
    if child == 0:
        try:
            os.close(receiving)
            _limit(size, seconds)
            text = json.dumps(work()).encode()
            while text:
                text = text[os.write(sending, text) :]
        finally:
            os._exit(0)
    os.close(sending)
    try:
        return _received(receiving, time.monotonic() + seconds)
    finally:
        os.close(receiving)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _received(pipe: int, end: float) -> dict[str, Any] | None:
    text = b""
    while len(text) < _MESSAGE_LIMIT:
        ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
        piece = os.read(pipe, 1 << 16) if ready else b""
        if not piece:
            break
        text += piece
    try:
        return json.loads(text)
    except ValueError:
        return None


def _limit(size: int, seconds: float) -> None:
    """What this process may use from now on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends this process
    torch.set_num_threads(1)  # the threads of the parent are not here
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    limits = {
        resource.RLIMIT_CPU: int(seconds),
        resource.RLIMIT_FSIZE: size + ROOM,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    if pages is not None:
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + 2 * size + ROOM
    for what, most in limits.items():
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
