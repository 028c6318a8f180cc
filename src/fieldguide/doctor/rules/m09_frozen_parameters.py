"""M09 frozen-parameters: most of the network is frozen although it was never trained.

What it looks for: more than half of the parameters do not want gradients, and their values are those of a fresh
network; or a failing run with most of it frozen.
Why it matters: a random network keeps most of what it does.
Usual causes: requires_grad left at False; freezing without loading weights.
Known false alarms: transfer and adapters with trained weights; say ``doctor.expect(frozen=…)``.
Fix: unfreeze them, or load the weights first.
"""

from fieldguide.doctor.facts import tested
from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    total, free = history.fact("model", "parameters") or 0, history.fact("model", "trainable") or 0
    if not total or free > 0.5 * total or history.intent.frozen:
        return None
    test = tested(history, "frozen_trained")
    if test:
        return Sign(
            f"{1 - free / total:.0%} of the parameters are frozen, and {test['says']}", "half", severity="critical"
        )
    return (
        Sign(f"{1 - free / total:.0%} of the parameters are frozen, and {history.failing}", "half")
        if history.failing
        else None
    )


RULE = Rule(
    code="M09",
    slug="frozen-parameters",
    judge=judge,
    on=frozenset({"setup", "sample"}),
    gated=False,
    persistent=False,
    fixes=(Fix("Unfreeze the parameters, or load trained weights first", "unfreeze"),),
    refute="With everything unfrozen the first 50 steps go no better.",
)
