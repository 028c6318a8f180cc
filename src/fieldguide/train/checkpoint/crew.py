"""Processes that write one checkpoint together, or read one."""

import json
from collections.abc import Callable
from errno import EIO

from fieldguide.train.checkpoint.disk import one_line

__all__ = ["ALONE", "Crew"]


class Crew:
    """One process, alone; subclasses have company. What the methods do, all of the crew do in the same order."""

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def exchange(self, text: str) -> list[str]:
        """What each of the crew says, by rank.

        Raises:
            RuntimeError: somebody says nothing.
        """
        return [text]

    def all(self, work: Callable[[], str]) -> list[str]:
        """What each of the crew gets by its ``work``; a failure of one is a failure of all.

        Raises:
            OSError: another one's work failed, or one does not answer; a failure of one's own is raised as it is.
        """
        failure, text = None, ""
        try:
            text = work()
        except Exception as problem:
            failure, text = problem, one_line(problem)
        try:
            said = [json.loads(words) for words in self.exchange(json.dumps([failure is None, text]))]
        except RuntimeError as problem:
            raise failure or OSError(EIO, f"not all processes answer: {one_line(problem)}") from problem
        if failure:
            raise failure
        for rank, (fine, words) in enumerate(said):
            if not fine:
                raise OSError(EIO, f"rank {rank}: {words}")
        return [words for _, words in said]


ALONE = Crew()
