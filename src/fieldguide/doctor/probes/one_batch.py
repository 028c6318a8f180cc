"""one_batch: can a copy of the network learn a single batch by heart?

A network whose size, loss and gradients are in order brings the loss of one batch near its floor within a hundred
steps of Adam, dropout left out (Karpathy 2019, "A Recipe for Training Neural Networks", §2: overfit one batch). When it
cannot, no longer training will help.
"""

from fieldguide.doctor.history import History
from fieldguide.doctor.probes.fork import Fork, end
from fieldguide.doctor.probes.suspicion import Bench

STEPS = 100


def wanted(history: History) -> bool:
    return history.step >= 50 and history.failing is not None


def run(bench: Bench) -> dict[str, float]:
    fork = Fork(bench.replay).calm()
    losses = fork.learn(STEPS, fork.batches[:1])
    return {"start": losses[0], "end": end(losses), "steps": len(losses)}
