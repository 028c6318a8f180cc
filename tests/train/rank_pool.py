"""Processes that are started once and then do one job after the other together, over gloo."""

import multiprocessing
import os
import socket
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
