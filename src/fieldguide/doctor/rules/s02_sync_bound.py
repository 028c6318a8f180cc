"""S02 sync-bound: tensors are asked for numbers again and again.

What it looks for: more than a tenth of every step spent in item(), tolist(), float(), cpu() and the like.
Why it matters: the time is lost, and an accelerator cannot be given work ahead of the program.
Usual causes: .item(), .cpu() or print of tensors in every step; a metric or log that reads number by number.
Known false alarms: accelerators that are busy all the time: waiting for them in one place or another is the same.
Fix: fetch numbers every 50 steps.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    shares = history.series("sync_wait", 5)
    if len(shares) < 3 or min(shares) < 0.1:
        return None
    return Sign(f"{min(shares):.0%} of a step and more goes into fetching numbers from tensors", "a tenth")


RULE = Rule(
    code="S02",
    slug="sync-bound",
    judge=judge,
    gated=False,
    severity="info",
    fixes=(Fix("Fetch numbers every 50 steps instead of every one"),),
    refute="Without fetching numbers a step takes as long.",
)
