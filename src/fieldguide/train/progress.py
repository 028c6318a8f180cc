"""How far a training is, and the running sums of the epoch under way."""

import math
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

from fieldguide.trace import Record


@dataclass
class Progress:
    """Counters, all of them saved; those of the epoch start anew with it."""

    step: int = 0
    """Optimizer steps done."""
    epoch: int = 0
    """Epochs done, which is the number of the one under way."""
    position: int = 0
    """Micro-batches of this epoch already used."""
    samples: int = 0
    """Samples of this epoch already used."""
    loss: float = 0.0
    """Sum over them."""
    seconds: float = 0.0
    """Training time of this epoch so far, without evaluation and saving."""
    waited: float = 0.0
    """Seconds spent waiting for data since training began."""

    history: list[Record] = field(default_factory=list)
    """The records of the epochs done."""

    def __post_init__(self) -> None:
        self.start_clock()

    def start_clock(self) -> None:
        """What happened since the last step (evaluation, saving) is not part of the next one."""
        self._clock = perf_counter()

    def step_done(self, batches: int, samples: int, loss: float) -> float:
        """Counts one optimizer step; returns the seconds it took, waiting for its data included."""
        now = perf_counter()
        seconds, self._clock = now - self._clock, now
        self.step, self.position, self.seconds = self.step + 1, self.position + batches, self.seconds + seconds
        if math.isfinite(loss):  # an fp16 step that overflowed moved nothing and counts for nothing
            self.samples, self.loss = self.samples + samples, self.loss + loss * samples
        return seconds

    def epoch_done(self, figures: dict[str, float]) -> Record:
        """The epoch's record, with these figures of its evaluation; begins the next epoch."""
        record: Record = {"kind": "epoch", "epoch": self.epoch, "step": self.step}
        record |= {"train_loss": self.loss / max(self.samples, 1), **figures}
        record |= {"seconds": self.seconds, "samples_per_second": self.samples / max(self.seconds, 1e-9)}
        self.history.append(record)
        self.epoch, self.position, self.samples, self.loss, self.seconds = self.epoch + 1, 0, 0, 0.0, 0.0
        return record

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
