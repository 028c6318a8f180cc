"""One checkpoint, read by all processes."""

from collections.abc import Callable

from fieldguide.errors import FieldguideError
from fieldguide.train.checkpoint import Checkpoints, Restored, State
from fieldguide.train.distributed.strategy import Strategy


def newest(
    checkpoints: Checkpoints, strategy: Strategy, check: Callable[[State], None] | None = None
) -> Restored | None:
    """The newest good checkpoint of a folder that all processes share; on return all have read it.

    Raises:
        DamagedFile: there are checkpoints, and none is good.
        FieldguideError: not all processes see the same.
    """
    checkpoints.wait()
    strategy.agree(0)  # the leading process is done with the one that it was writing
    restored = checkpoints.newest(check)
    step = restored.step if restored else -1
    if strategy.agree(step) != step:
        raise FieldguideError(
            f"distributed: not all processes find the same checkpoint in {checkpoints.folder}; "
            "let all machines share the folder"
        )
    return restored
