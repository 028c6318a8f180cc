"""S06 irreproducible: two runs of the same seed differ.

What it looks for: a repetition of the first steps from the same state that gives other numbers.
Why it matters: no comparison of two runs means anything below that difference.
Usual causes: unseeded generators; operations whose order of sums varies; workers that race.
Known false alarms: accelerators without deterministic algorithms: advice and no alarm.
Fix: seed everything, torch.use_deterministic_algorithms(True).
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    repeated = history.probes.get("repeat")
    if not repeated or not repeated.get("difference"):
        return None
    return Sign(f"the same step from the same state gives a loss that differs by {repeated['difference']:.1g}", "any")


RULE = Rule(
    code="S06",
    slug="irreproducible",
    judge=judge,
    on=frozenset({"probe"}),
    gated=False,
    persistent=False,
    severity="info",
    fixes=(Fix("Seed every generator and use deterministic algorithms"),),
    refute="Two runs of the same seed are equal bit for bit.",
)
