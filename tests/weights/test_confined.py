"""Each way in which reading a stranger's file can end badly has a line of its own."""

import faulthandler
import os
import re
import resource
import signal
import time
from pathlib import Path

import pytest
import torch

from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.weights import confined as room
from fieldguide.weights.confined import confined


def out_of_time(path: Path) -> dict:
    time.sleep(60)
    return {}


def busy(path: Path) -> dict:
    while True:
        pass


def greedy(path: Path) -> dict:
    return {"a": torch.ones(1 << 38)}


def greedy_in_python(path: Path) -> dict:
    return {"a": bytearray(1 << 40)}


def crashed(path: Path) -> dict:
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)
    return {}


def killed(path: Path) -> dict:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def gone(path: Path) -> dict:
    os._exit(7)


@pytest.mark.parametrize(
    ("reader", "said"),
    [
        (out_of_time, r"more than the 1 s that a file of 4 bytes"),
        (busy, r"more than the 1 s that a file of 4 bytes"),
        (greedy, "more memory than a file of 4 bytes"),
        (greedy_in_python, "more memory than a file of 4 bytes"),
        (crashed, r"broke down \(SIGSEGV\)"),
        (killed, r"broke down \(SIGKILL\)"),
        (gone, r"broke down \(without a word\)"),
    ],
)
def test_a_fault_is_named(reader, said, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "SECONDS", 1.0)
    (tmp_path / "m.pt").write_bytes(b"1234")
    with pytest.raises(DamagedFile, match=re.escape(str(tmp_path / "m.pt")) + f" was refused: .*{said}"):
        confined(reader, tmp_path / "m.pt")


def test_a_full_disk_is_no_fault_of_the_file(tmp_path):
    """In a fork, whose files the system keeps shorter than the tensors."""
    (tmp_path / "m.pt").write_bytes(bytes(1 << 23))
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
            confined(lambda path: {"a": torch.zeros(1 << 20)}, tmp_path / "m.pt")
        except FieldguideError as error:
            os.write(sending, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(sending)
    said = os.read(receiving, 1 << 16).decode()
    os.waitpid(child, 0)
    assert re.match(r"FieldguideError: cannot write 4,194,304 bytes of tensors to \S+, where [\d,]+ are free", said)
    assert said.count("TMPDIR") == 1


def one_tensor(path: Path) -> dict:
    with path.open("rb"):
        return {"a": torch.ones(1)}


def test_a_process_with_many_open_files_reads_one_more(tmp_path: Path) -> None:
    """As a notebook has them; the reading process inherits them."""
    file = tmp_path / "a.pth"
    file.write_bytes(bytes(1000))
    held = [file.open("rb") for _ in range(200)]
    try:
        assert torch.equal(confined(one_tensor, file)["a"], torch.ones(1))
    finally:
        for one in held:
            one.close()
