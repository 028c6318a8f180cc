"""S05 near-out-of-memory: memory is nearly used up.

What it looks for: a peak above 92 % of what there is.
Why it matters: the next longer batch ends the run.
Usual causes: a batch too large; activations that could be computed again.
Known false alarms: allocators that keep memory they do not need: peak allocation is what counts.
Fix: a smaller micro-batch with accumulation, or recomputed activations.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    share = history.last.get("memory_share", 0.0)
    return Sign(f"the peak is {share:.0%} of the memory", "92 %") if share > 0.92 else None


RULE = Rule(
    code="S05",
    slug="near-out-of-memory",
    judge=judge,
    gated=False,
    severity="info",
    fixes=(Fix("Halve the micro-batch and accumulate", "batch / 2"),),
    refute="The peak falls with half the batch.",
)
