"""M01 head-size-mismatch: the last layer has more or fewer outputs than there are classes.

What it looks for: more scores than twice the number of classes that occur in 500 targets, in a failing run; or a
crash about a label beyond the scores.
Why it matters: superfluous classes cost little, missing ones crash or are never predicted.
Usual causes: a head left over from another data set.
Known false alarms: rare classes and shared vocabularies: tokens are left out, and runs that learn are not named.
Fix: give the head as many outputs as there are classes.
"""

from fieldguide.doctor.facts import error, one_label_each, outputs
from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    if "out of bounds" in error(history).lower() and "target" in error(history).lower():
        return Sign(f"the script crashed: {error(history)}", "any", severity="critical")
    classes, width = history.fact("targets", "classes") or {}, outputs(history)
    seen = history.fact("targets", "samples") or 0
    if not history.failing or not one_label_each(history) or seen < 500 or width <= 2 * len(classes):
        return None
    return Sign(f"the head has {width} outputs and {len(classes)} classes occur in {seen} targets", "twice as many")


RULE = Rule(
    code="M01",
    slug="head-size-mismatch",
    judge=judge,
    on=frozenset({"sample", "end"}),
    gated=False,
    persistent=False,
    fixes=(Fix("Give the head as many outputs as there are classes"),),
    refute="All outputs occur as labels in the whole data set.",
)
