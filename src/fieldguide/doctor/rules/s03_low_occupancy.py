"""S03 low-occupancy: the processor or accelerator is hardly used.

What it looks for: eight times the samples take less than 1.25 times as long, with less than half of the memory in use.
Why it matters: larger batches would cost nothing.
Usual causes: small batches or networks, so that a step is all overhead.
Known false alarms: small tasks on large machines, and batches that are small by choice: advice and no alarm.
Fix: a larger batch, 16 bits, torch.compile.
"""

from fieldguide.doctor.facts import tested
from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    test, memory = tested(history, "larger_batch"), history.last.get("memory_share", 0.0)
    if not test or memory > 0.5:
        return None
    return Sign(f"{test['says']}, with {memory:.0%} of the memory in use", "1.25 times, and half")


RULE = Rule(
    code="S03",
    slug="low-occupancy",
    judge=judge,
    gated=False,
    severity="info",
    fixes=(Fix("Use a larger batch", "batch * 2"),),
    refute="A batch of twice the size takes twice as long.",
)
