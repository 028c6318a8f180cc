"""The first Ctrl-C or SIGTERM lets the step and the save end; the second Ctrl-C does not wait."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fieldguide.train.signals import Stop

LOOP = """
import sys, time
from pathlib import Path
from fieldguide.train.signals import Stop
with Stop() as stop:
    while not stop.requested:
        print("step", flush=True)
        time.sleep(0.02)
    print("saving", flush=True)
    time.sleep(float(sys.argv[1]))
    Path(sys.argv[2]).write_text("saved")
sys.exit(stop.exit_code)
"""


def start(tmp_path: Path, seconds_to_save: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LOOP, str(seconds_to_save), str(tmp_path / "result")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "step\n"
    return process


def wait_until_saving(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    while process.stdout.readline() != "saving\n":
        assert process.poll() is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_saves_and_ends_with_its_code(tmp_path: Path, number: int, code: int) -> None:
    process = start(tmp_path, 0.0)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert (tmp_path / "result").read_text() == "saved"
    assert errors.count("stopping after this step") == 1
    assert ("Ctrl-C again" in errors) == (number == signal.SIGINT)


@pytest.mark.parametrize("second", [signal.SIGTERM, None])
def test_a_save_is_not_disturbed(tmp_path: Path, second: int | None) -> None:
    process = start(tmp_path, 0.3)
    process.send_signal(signal.SIGINT)
    wait_until_saving(process)
    if second:
        process.send_signal(second)
    assert process.wait(timeout=30) == 130
    assert (tmp_path / "result").exists()


def test_the_second_ctrl_c_aborts_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, 60.0)
    process.send_signal(signal.SIGINT)
    wait_until_saving(process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == -signal.SIGINT
    assert not (tmp_path / "result").exists()


def test_the_earlier_handlers_come_back_also_after_an_error() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def fail() -> None:
        with Stop():
            assert signal.getsignal(signal.SIGTERM) != before[1]
            raise RuntimeError("of the training")

    with pytest.raises(RuntimeError):
        fail()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_ctrl_c_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stop() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop.requested
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_it_does_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with Stop() as stop:
            seen.append((signal.getsignal(signal.SIGTERM), stop.requested, stop.exit_code))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False, 0)]


def test_forked_workers_leave_ctrl_c_to_the_trainer_and_can_be_terminated(capfd: pytest.CaptureFixture[str]) -> None:
    with Stop() as stop:
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        worker.start()
        assert worker.pid
        os.kill(worker.pid, signal.SIGINT)
        worker.join(0.2)
        assert worker.is_alive()
        worker.terminate()
        worker.join(10)
        assert worker.exitcode == -signal.SIGTERM
        assert not stop.requested
    assert capfd.readouterr().err == ""
