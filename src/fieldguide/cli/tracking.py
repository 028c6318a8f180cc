"""Logs of a training for other programs, beside those that every run has."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from fieldguide.errors import FieldguideError

if TYPE_CHECKING:
    from fieldguide.train.callbacks import Callback
    from fieldguide.train.run import RunFolder

Tracker = Literal["tensorboard"]


def require_log(log: Tracker | None) -> None:
    """Raises FieldguideError when what such a log is written with is not installed."""
    if log and find_spec(log) is None:
        raise FieldguideError(f'--log {log} needs the extra "track": pip install "fieldguide[track]"')


@contextmanager
def tracked(log: Tracker | None, run: "RunFolder") -> "Iterator[list[Callback]]":
    """What writes the log of a run while it trains."""
    if log is None:
        yield []
        return
    from fieldguide.train.tensorboard import TensorBoard

    with TensorBoard(run.path / log) as board:
        yield [board]
