"""S06 irreproducible: two runs of the same seed differ.

What it looks for: a repetition of the first step from the same state that gives another loss or other gradients.
Why it matters: no comparison of two runs means anything below that difference.
Usual causes: unseeded generators; operations whose order of sums varies; workers that race.
Known false alarms: accelerators without deterministic algorithms: what differs by less than 0.001 % is advice and no
alarm.
Fix: seed everything, torch.use_deterministic_algorithms(True).
"""

from fieldguide.doctor.facts import tested
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    test = tested(history, "repeatable")
    return Sign(test["says"], "any", "warning" if test["figure"] > 1e-5 else None) if test else None


RULE = Rule(
    code="S06",
    slug="irreproducible",
    judge=judge,
    severity="info",
    fixes=(Fix("Seed every generator and use deterministic algorithms"),),
    refute="Two runs of the same seed are equal bit for bit.",
    **exact("setup"),
)
