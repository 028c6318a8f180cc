"""A training's figures for TensorBoard; needs the extra ``track``."""

import math
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.utils.tensorboard import SummaryWriter

from fieldguide.trace import Record
from fieldguide.train.callbacks import Callback, TrainingWarning

if TYPE_CHECKING:
    from fieldguide.train.loop import Loop

_PLACES = {"kind", "step", "epoch"}


class TensorBoard(Callback, AbstractContextManager):
    """Writes every ``every``-th step, and every epoch, test and failure, as events into a folder.

    A resumed training says from which step on it writes anew, and TensorBoard drops what it had of those steps.
    """

    def __init__(self, folder: Path, every: int = 10):
        self.folder, self.every = folder, every
        self._writer: SummaryWriter | None = None

    def on_start(self, loop: "Loop") -> None:
        super().on_start(loop)
        self._close()
        self._writer = SummaryWriter(str(self.folder), purge_step=loop.progress.step + 1)

    def on_step(self, record: Record) -> None:
        if record["step"] % self.every == 0:
            self._write("step", record)

    def on_epoch(self, record: Record) -> None:
        self._write("epoch", record)

    def on_test(self, record: Record) -> None:
        self._write("test", record)

    def on_failure(self, record: Record) -> None:
        if self._writer and "message" in record:
            self._writer.add_text("failure", record["message"], record["step"])

    def state_dict(self) -> dict[str, Any]:
        if self._writer:
            self._writer.flush()  # a resume goes on from here, so that here nothing may be missing
        return {}

    def __exit__(self, *exception: object) -> None:
        self._close()

    def _write(self, kind: str, record: Record) -> None:
        if self._writer is None:
            return
        try:
            for name, value in record.items():
                if name not in _PLACES and isinstance(value, int | float) and math.isfinite(value):
                    self._writer.add_scalar(f"{kind}/{name}", value, record["step"])
        except OSError as problem:
            self._writer = None
            what = f"nothing more is written for TensorBoard ({problem})"
            warnings.warn(f"{what}; training goes on", TrainingWarning, stacklevel=2)

    def _close(self) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None
