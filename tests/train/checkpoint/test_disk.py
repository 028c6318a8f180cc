"""Files are written in the order of their chunks, whatever their sizes, and believed only as they were written."""

import random
import zlib
from pathlib import Path

import pytest

from fieldguide.errors import DamagedFile
from fieldguide.train.checkpoint import disk
from fieldguide.train.checkpoint.disk import sync, verify, write


def test_chunks_of_all_sizes_arrive_in_order(tmp_path: Path) -> None:
    chance = random.Random(0)
    around = disk._PIECE
    sizes = [*chance.choices([0, 1, 7, 1000, around - 1, around, around + 1, 3 * around], k=60), 0]
    chunks = [chance.randbytes(size) for size in sizes]
    written = write(tmp_path / "file", [memoryview(chunk) if i % 2 else chunk for i, chunk in enumerate(chunks)])
    content = (tmp_path / "file").read_bytes()
    assert content == b"".join(chunks)
    assert written == {"size": len(content), "crc32": f"{zlib.crc32(content):08x}"}
    verify(tmp_path / "file", written)


def test_a_file_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        write(tmp_path / "file", [b"yours"])
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_the_same_size_is_not_enough(tmp_path: Path) -> None:
    written = write(tmp_path / "file", [b"abc"])
    (tmp_path / "file").write_bytes(b"abd")
    with pytest.raises(DamagedFile, match="its CRC-32 is not the one in the manifest"):
        verify(tmp_path / "file", written)


def test_what_is_not_there_has_nothing_to_sync(tmp_path: Path) -> None:
    sync(tmp_path / "nowhere")
    sync(tmp_path)
