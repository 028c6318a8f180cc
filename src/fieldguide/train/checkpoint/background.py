"""Work that goes on beside the training."""

import _thread
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["beside"]

Result = TypeVar("Result")


def beside(work: Callable[[], Result]) -> Future[Result]:
    """Do ``work`` on a thread of its own, which ends with the process, however that ends."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    _thread.start_new_thread(run, ())  # threading's would keep the training waiting until it runs
    return future
