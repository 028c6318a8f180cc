"""What a probe works with."""

from dataclasses import dataclass

import torch

from fieldguide.doctor.preflight.twin import Replay


@dataclass(frozen=True)
class Bench:
    """A training that can be run again, and the optimizer that it uses."""

    replay: Replay
    optimizer: torch.optim.Optimizer | None
