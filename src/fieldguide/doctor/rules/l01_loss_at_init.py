"""L01 loss-at-init: the first loss is far from what random answers cost.

What it looks for: a first loss above 3 times ln K (or a constant answer's cost), in a run that also fails; above 10
times in any.
Why it matters: the first steps only undo the initial values.
Usual causes: initial values too large; unscaled inputs or targets; the wrong reduction.
Known false alarms: fine-tuning (below, not above); losses with an added term.
Fix: smaller initial values in the last layer; scaled targets.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    expected = history.fact("loss", "expected") or history.fact("loss", "baseline")
    first = history.start
    if not expected or expected <= 0 or not first > 3 * expected or history.fact("loss", "reduction") == "sum":
        return None
    if first < 10 * expected and not history.failing:
        return None
    return Sign(
        f"the first losses are {first:.3g}, and random answers should cost about {expected:.3g}",
        "3 times, in a failing run",
    )


RULE = Rule(
    code="L01",
    slug="loss-at-init",
    judge=judge,
    gated=False,
    severity="info",
    fixes=(Fix("Start the last layer smaller", "init"),),
    refute="With smaller initial values of the last layer the first 50 steps go no better.",
)
