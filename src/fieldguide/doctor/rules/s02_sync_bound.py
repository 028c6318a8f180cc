"""S02 sync-bound: the accelerator is asked for numbers again and again.

What it looks for: more than a tenth of the time spent waiting for the accelerator's answers.
Why it matters: it cannot run ahead of the program.
Usual causes: .item(), .cpu() or print of tensors in every step.
Known false alarms: processors, which have nothing to wait for.
Fix: fetch numbers every 50 steps.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    shares = history.series("sync_wait", 5)
    if len(shares) < 3 or min(shares) < 0.1:
        return None
    return Sign(f"{min(shares):.0%} of the time is spent waiting for answers of the accelerator", "a tenth")


RULE = Rule(
    code="S02",
    slug="sync-bound",
    judge=judge,
    gated=False,
    severity="info",
    fixes=(Fix("Fetch numbers every 50 steps instead of every one"),),
    refute="Without fetching numbers a step takes as long.",
)
