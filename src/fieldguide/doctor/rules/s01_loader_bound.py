"""S01 loader-bound: the network waits for its data.

What it looks for: more than half of a step's time spent waiting for batches, by at least 2 ms a step.
Why it matters: the processor or accelerator is idle for as long.
Usual causes: decoding and augmentation in the main process; a slow disk; too few workers.
Known false alarms: first epochs that fill a cache.
Fix: workers, caching, pinned memory, cheaper augmentation.
"""

from statistics import median

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    recent = history.samples[-5:]
    waits = [(s["data_wait"], s["seconds"]) for s in recent if "data_wait" in s and "seconds" in s and s["step"] > 3]
    if len(waits) < 3:
        return None
    share, seconds = median(wait for wait, _ in waits), median(seconds for _, seconds in waits)
    if share < 0.5 or share * seconds < 2e-3:
        return None
    return Sign(f"{share:.0%} of a step of {1e3 * seconds:.3g} ms is waiting for data", "half, and 2 ms")


RULE = Rule(
    code="S01",
    slug="loader-bound",
    judge=judge,
    gated=False,
    fixes=(Fix("Read with workers, cache what is decoded, pin memory", "workers"),),
    refute="With a batch that is kept in memory a step takes as long.",
)
