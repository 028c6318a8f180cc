"""Files that are written whole and read only when they are what was written."""

import contextlib
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fieldguide.errors import DamagedFile

__all__ = ["Bytes", "damaged", "one_line", "require_plain_file", "sync", "sync_folder", "verify", "write"]

Bytes = bytes | bytearray | memoryview
_PIECE = 1 << 18
"""Bytes that are worth a system call of their own."""


class Checksum:
    """CRC-32, that of gzip: several times as fast as SHA-256, and it is rot that it is to find, not malice.

    It finds any error within 32 neighbouring bits, and of others all but one in 2³².
    """

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: Bytes) -> None:
        self._value = zlib.crc32(data, self._value)

    def __str__(self) -> str:
        return f"{self._value:08x}"


def write(path: Path, chunks: Iterable[Bytes]) -> dict[str, Any]:
    """Write and sync a new file; its size and checksum, which a second thread computes while the disk is busy."""
    checksum, size, read = Checksum(), 0, []
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        with ThreadPoolExecutor(1) as reader:
            for chunk in _joined(chunks):
                read.append(reader.submit(checksum.update, chunk))
                size += len(chunk)
                rest = memoryview(chunk)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
            for update in read:
                update.result()
    finally:
        os.close(descriptor)
    return {"size": size, "crc32": str(checksum)}


def _joined(chunks: Iterable[Bytes]) -> Iterator[Bytes]:
    """The chunks, the small ones joined: a system call and a hand-over to a thread cost more than a small copy."""
    small = bytearray()
    for chunk in chunks:
        if len(chunk) < _PIECE:
            small += chunk
        if small and (len(chunk) >= _PIECE or len(small) >= _PIECE):
            yield small
            small = bytearray()
        if len(chunk) >= _PIECE:
            yield chunk
    if small:
        yield small


def sync(path: Path) -> None:
    """Bring the content of a file or folder to the disk, whoever wrote it; one that is not there has none."""
    with contextlib.suppress(FileNotFoundError):
        sync_folder(path)


def sync_folder(folder: Path) -> None:
    """Bring to the disk which names a folder holds: without it a new file may be gone after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_plain_file(path: Path) -> os.stat_result:
    try:
        status = os.lstat(path)
    except FileNotFoundError as error:
        raise DamagedFile(f"{path} is missing") from error
    if not stat.S_ISREG(status.st_mode):
        raise damaged(path, "not a plain file")
    return status


def verify(path: Path, expected: dict[str, Any]) -> None:
    size = require_plain_file(path).st_size
    if size != expected["size"]:
        raise damaged(path, f"{size:,} bytes instead of {expected['size']:,}")
    checksum = Checksum()
    try:
        with open(path, "rb") as file:
            while piece := file.read(_PIECE):
                checksum.update(piece)
    except OSError as error:
        raise damaged(path, one_line(error)) from error
    if str(checksum) != expected["crc32"]:
        raise damaged(path, "its CRC-32 is not the one in the manifest")


def damaged(path: Path, why: str) -> DamagedFile:
    return DamagedFile(f"{path} is damaged: {why}")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
