"""S03 low-occupancy: the accelerator is hardly used.

What it looks for: less than 30 % busy and less than half of its memory in use.
Why it matters: larger batches would cost nothing.
Usual causes: small batches or networks; a slow loader.
Known false alarms: small tasks on large machines: advice and no alarm.
Fix: a larger batch, 16 bits, torch.compile.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    busy, memory = history.series("busy", 5), history.last.get("memory_share", 1.0)
    if len(busy) < 3 or max(busy) > 0.3 or memory > 0.5:
        return None
    return Sign(f"the accelerator is busy {max(busy):.0%} of the time with {memory:.0%} of its memory", "30 % and half")


RULE = Rule(
    code="S03",
    slug="low-occupancy",
    judge=judge,
    gated=False,
    severity="info",
    fixes=(Fix("Use a larger batch", "batch * 2"),),
    refute="A batch of twice the size takes twice as long.",
)
