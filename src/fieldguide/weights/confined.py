"""A stranger's file is read in a process of its own, which has little memory and time and hands back tensors only.

Torch's restricted reader executes nothing it was not taught, but it is a large program that eats whatever bytes it is
given: its own process keeps what goes wrong in it – memory, time, a crash – away from the training. The process is a
fork, which costs milliseconds where a new interpreter would import torch for seconds; what it hands back is a
safetensors file that it wrote itself, gone when the tensors are.
"""

import contextlib
import json
import os
import resource
import select
import shutil
import signal
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fieldguide.errors import DamagedFile, FieldguideError

Reader = Callable[[Path], dict[str, Tensor]]

ROOM = 1 << 28
"""Bytes of memory beyond twice the file's size: once read, once as it is written."""
SECONDS = 30.0
"""Of processor and of wall time, and one more for every ``SPEED`` bytes."""
SPEED = 20_000_000
FILES = 64
"""That may be open beside those which already are."""
_MESSAGE_LIMIT = 1 << 24


def confined(reader: Reader, path: Path) -> dict[str, Tensor]:
    """What ``reader`` makes of a file, made in a process of its own; tied tensors come back tied.

    Raises:
        DamagedFile: ``reader`` does, or it takes more memory or time than a file of this size can need, or breaks down.
        FieldguideError: ``reader`` does, or there is no room on the disk for what it hands back.
    """
    size = path.stat().st_size if path.is_file() else 0
    with tempfile.TemporaryDirectory(prefix="fieldguide-") as folder:
        out = Path(folder) / "tensors.safetensors"
        said = _in_a_fork(lambda: _convert(reader, path, out, size), size)
        if "fault" in said:
            raise DamagedFile(f"{path} was refused: {said['fault']}; ask its author for a safetensors file")
        if "problem" in said:
            raise (DamagedFile if said["damaged"] else FieldguideError)(said["problem"])
        tensors = load_file(out) if out.exists() else {}
    return {name: tensors[place] for name, place in said["places"].items()}


def out_of_memory(error: BaseException) -> bool:
    """Whether there was no memory left; torch says so in words."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


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
        _save({name: tensor.contiguous() for name, tensor in unique.items()}, out)
        return {"places": meant}
    except FieldguideError as problem:
        return {"problem": str(problem), "damaged": isinstance(problem, DamagedFile)}


def _save(tensors: dict[str, Tensor], out: Path) -> None:
    try:
        save_file(tensors, out)
    except SafetensorError as error:  # the library says only in words what the system refused
        needed, free = sum(tensor.nbytes for tensor in tensors.values()), shutil.disk_usage(out.parent).free
        raise FieldguideError(
            f"cannot write {needed:,} bytes of tensors to {out.parent.parent}, where {free:,} are free ({error}); "
            "make room there, or set TMPDIR to a folder with more"
        ) from error


def _in_a_fork(work: Callable[[], dict[str, Any]], size: int) -> dict[str, Any]:
    """What ``work`` returns, or the ``fault`` that ended it."""
    seconds = SECONDS + size / SPEED
    receiving, sending = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads: the fork calls nothing that they hold
        child = os.fork()
    if child == 0:
        try:
            os.close(receiving)
            _limit(size, seconds)
            try:
                said = work()
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                said = {"fault": f"reading it took more memory than a file of {size:,} bytes can need"}
            text = json.dumps(said).encode()
            while text:
                text = text[os.write(sending, text) :]
        finally:
            os._exit(0)
    os.close(sending)
    try:
        text = _received(receiving, time.monotonic() + seconds)
    finally:
        os.close(receiving)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    with contextlib.suppress(ValueError):
        return json.loads(text or b"")
    ended = signal.Signals(os.WTERMSIG(status)) if os.WIFSIGNALED(status) else None
    if text is None or ended is signal.SIGXCPU:
        return {"fault": f"reading it took more than the {seconds:.0f} s that a file of {size:,} bytes can need"}
    return {"fault": f"the process that read it broke down ({ended.name if ended else 'without a word'})"}


def _received(pipe: int, end: float) -> bytes | None:
    """Everything that comes until the other side is closed; None when that takes too long."""
    text = b""
    while len(text) < _MESSAGE_LIMIT:
        ready, _, _ = select.select([pipe], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            return None
        piece = os.read(pipe, 1 << 16)
        if not piece:
            break
        text += piece
    return text


def _limit(size: int, seconds: float) -> None:
    """What this process may use from now on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends this process
    torch.set_num_threads(1)  # the threads of the parent are not here
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    limits = {
        resource.RLIMIT_CPU: int(seconds),
        resource.RLIMIT_FSIZE: size + ROOM,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: FILES + max(map(int, os.listdir("/dev/fd"))),  # those of the parent are open here too
    }
    if pages is not None:
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + 2 * size + ROOM
    for what, most in limits.items():
        _, hard = resource.getrlimit(what)
        ceiling = most + 1 if hard == resource.RLIM_INFINITY else min(most + 1, hard)
        resource.setrlimit(what, (min(most, ceiling), ceiling))  # apart, so that SIGXCPU comes before SIGKILL
