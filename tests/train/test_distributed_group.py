"""Joining processes, and what becomes of a job one of whose processes dies or stops: real processes, real signals."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from fieldguide.errors import FieldguideError
from fieldguide.train.distributed import Place

GOOD = {
    "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1",
}  # fmt: skip


def test_the_variables_of_torchrun_say_who_is_who():
    assert Place.found(GOOD) == Place(1, 4, 1)
    assert Place.found({}) is None
    assert Place.found({"MASTER_ADDR": "left over"}) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"RANK": ""}, "RANK not set, though WORLD_SIZE is; start the command with torchrun"),
        ({"WORLD_SIZE": "", "MASTER_PORT": ""}, "WORLD_SIZE, MASTER_PORT not set, though RANK is"),
        ({"RANK": "4"}, "contradict each other: RANK=4, WORLD_SIZE=4"),
        ({"RANK": "-1"}, "contradict each other: RANK=-1"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK=2, LOCAL_WORLD_SIZE=2"),
        ({"LOCAL_WORLD_SIZE": "8"}, "WORLD_SIZE=4, LOCAL_RANK=1, LOCAL_WORLD_SIZE=8"),
        ({"WORLD_SIZE": "four"}, "WORLD_SIZE='four' is not a whole number"),
    ],
)
def test_variables_that_contradict_are_one_line(change, said):
    with pytest.raises(FieldguideError, match=said) as caught:
        Place.found(GOOD | change)
    assert "\n" not in str(caught.value)


RANK = """
import os, sys, time
import torch
from fieldguide.errors import FieldguideError
from fieldguide.train.distributed import Place, joined

torch.set_num_threads(1)
place = Place.found()
try:
    with joined(place, torch.device("cpu"), timeout=float(sys.argv[1])) as group:
        for step in range(10_000):
            if place.rank == 1 and step == int(sys.argv[2]):
                time.sleep(1000)
            group.gather([step])
            group.pulse.step = step + 1
            if place.rank == 0:
                print(step, flush=True)
            time.sleep(0.02)
except FieldguideError as problem:
    sys.exit(f"error: {problem}")
"""


class Job:
    """Ranks that talk to each other step by step until something happens."""

    def __init__(self, port, size, timeout, stuck=-1):
        common = os.environ | {
            "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self.ranks = [
            subprocess.Popen(
                [sys.executable, "-c", RANK, str(timeout), str(stuck)],
                env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for rank in range(size)
        ]  # fmt: skip

    def wait_for_step(self, step):
        for line in self.ranks[0].stdout:
            if int(line) >= step:
                return
        pytest.fail(self.ranks[0].stderr.read())

    def survivors(self, lost, within):
        """What the others say, once all have ended."""
        return [rank.communicate(timeout=within)[1] for i, rank in enumerate(self.ranks) if i != lost]

    def close(self):
        for rank in self.ranks:
            rank.kill()
            rank.communicate()


@pytest.fixture
def job(unused_port):
    jobs = []

    def start(*settings):
        jobs.append(Job(unused_port, *settings))
        return jobs[-1]

    yield start
    for one in jobs:
        one.close()


@pytest.fixture
def unused_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
def test_a_rank_that_lives_and_does_nothing_is_named_too(job):
    ranks = job(3, 4, 6)
    ranks.wait_for_step(5)
    for text in ranks.survivors(lost=1, within=60):
        (line,) = [line for line in text.splitlines() if line.startswith("error:")]
        assert "rank 1 lives and does not go on after step 6" in line


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_dies_or_stops_ends_the_job_with_its_name_and_step(job, how, size):
    ranks = job(size, 3)
    ranks.wait_for_step(5)
    ranks.ranks[1].send_signal(how)
    said = ranks.survivors(lost=1, within=60)
    assert {rank.returncode for i, rank in enumerate(ranks.ranks) if i != 1}.isdisjoint({0, None})
    for text in said:
        (line,) = [line for line in text.splitlines() if line.startswith("error:")]
        assert "rank 1 gave no sign of life" in line
        assert int(line.split("after step ")[1].split(":")[0]) >= 5
