"""lr_fork: would another learning rate do better from here?

Three copies go on with the training's own optimizer and moments, at a tenth, once and ten times the rate, on the
batches that were kept.
"""

from fieldguide.doctor.history import History
from fieldguide.doctor.probes.fork import Fork, end
from fieldguide.doctor.probes.suspicion import Bench

STEPS = 50
FACTORS = (0.1, 1.0, 10.0)


def wanted(history: History) -> bool:
    ratios = history.series("update_ratio", 5)
    crawling = len(ratios) == 5 and max(ratios) < 3e-5 and history.level > 0.5 * abs(history.start)
    return history.step >= 50 and (crawling or history.failing is not None)


def run(bench: Bench) -> dict[str, float]:
    figures = {"start": Fork(bench.replay, bench.optimizer).loss(training=True)}
    for factor in FACTORS:
        fork = Fork(bench.replay, bench.optimizer)
        for group in fork.optimizer.param_groups:
            group["lr"] *= factor
        figures[f"{factor:g}"] = end(fork.learn(STEPS))
    return figures
