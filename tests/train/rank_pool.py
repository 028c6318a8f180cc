"""Processes that are started once and then do one job after the other together, over gloo."""

import multiprocessing
import os
import socket
import subprocess
import sys
import traceback
from multiprocessing.connection import Connection

import torch

from fieldguide.train.distributed import Place, joined


class RankPool:
    """``pool(job, …)`` runs ``job(group, …)``, a function of a test module, on all ranks; the results by rank."""

    def __init__(self, size: int, timeout: float = 120.0):
        context = multiprocessing.get_context("spawn")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pairs = [context.Pipe() for _ in range(size)]
        self.pipes = [ours for ours, _ in pairs]
        self.processes = [
            context.Process(target=_serve, args=(rank, size, port, timeout, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pairs)
        ]
        for process in self.processes:
            process.start()

    def __call__(self, job, *arguments):
        for pipe in self.pipes:
            pipe.send((job, arguments))
        results = [self._receive(rank) for rank in range(len(self.pipes))]
        problems = [f"rank {rank}:\n{text}" for rank, (fine, text) in enumerate(results) if not fine]
        assert not problems, "\n".join(problems)
        return [result for _, result in results]

    def _receive(self, rank):
        assert self.pipes[rank].poll(300), f"rank {rank} does not answer"
        return self.pipes[rank].recv()

    def close(self):
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(20)
            if process.is_alive():
                process.kill()


def _serve(rank: int, size: int, port: int, timeout: float, pipe: Connection) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined(Place(rank, size, rank), torch.device("cpu"), timeout) as group:
        while (task := pipe.recv()) is not None:
            job, arguments = task
            try:
                pipe.send((True, job(group, *arguments)))
            except Exception:
                pipe.send((False, traceback.format_exc()))


def two_ranks(code: str, *words: object) -> list[subprocess.Popen[str]]:
    """Two processes that run this code as ranks of one job; their standard errors can be read."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, words)]
    places = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2))
    return [subprocess.Popen(command, env=common | place, stderr=subprocess.PIPE, text=True) for place in places]
