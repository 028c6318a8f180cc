"""train_eval: does the network say the same in training and in evaluation mode?

The mean loss of the kept batches in either mode. Dropout makes training somewhat worse; an evaluation several times
worse than training means that running statistics are stale or that something is only ever done in one of the modes.
"""

from fieldguide.doctor.history import History
from fieldguide.doctor.probes.fork import Fork
from fieldguide.doctor.probes.suspicion import Bench


def wanted(history: History) -> bool:
    modes = history.fact("model", "has_batch_norm") or history.fact("model", "has_dropout")
    apart = any(record.get("loss", 0.0) > 2 * history.level for record in history.evals[-1:])
    return bool(modes) and history.step >= 20 and (apart or history.failing is not None)


def run(bench: Bench) -> dict[str, float]:
    fork = Fork(bench.replay)
    return {"train": fork.loss(training=True), "eval": fork.loss(training=False)}
