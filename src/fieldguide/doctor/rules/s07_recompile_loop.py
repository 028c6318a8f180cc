"""S07 recompile-loop: the network is compiled again and again.

What it looks for: more than 8 compilations after the first 20 steps.
Why it matters: compiling takes seconds, a step milliseconds.
Usual causes: shapes that change with every batch; Python numbers that the graph depends on.
Known false alarms: a few buckets of lengths, each compiled once.
Fix: pad to fixed lengths, or mark dimensions as dynamic.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    counts = [sample["recompiles"] for sample in history.samples if "recompiles" in sample and sample["step"] > 20]
    if len(counts) < 2 or counts[-1] - counts[0] <= 8:
        return None
    return Sign(f"{counts[-1] - counts[0]} compilations since step 20", "8")


RULE = Rule(
    code="S07",
    slug="recompile-loop",
    judge=judge,
    gated=False,
    severity="info",
    fixes=(Fix("Pad to fixed lengths, or mark dimensions as dynamic"),),
    refute="The number stays the same for 500 steps.",
)
