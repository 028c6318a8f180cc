"""D04 unscaled-target: the numbers to be predicted are far from what a new network can say.

What it looks for: a regression whose targets deviate from 0 by more than 30, while the loss is no better than a
constant answer's; or by more than 1000, while 100 steps have left a fifth of it.
Why it matters: the output bias alone needs thousands of steps to get there, and the gradients are as large as the
targets.
Usual causes: prices, populations or physical units taken as they are.
Known false alarms: targets in tens with a rate that copes: such a run beats the constant answer and is not named.
Fix: train on (y − mean) / deviation and turn predictions back.
"""

from fieldguide.doctor.facts import REGRESSION, loss_name, stuck
from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    facts = history.setup.get("targets", {})
    if loss_name(history) not in REGRESSION or "std" not in facts:
        return None
    large = max(facts["std"], abs(facts.get("mean", 0.0)))
    reason = stuck(history) if large > 30 else None
    if large > 1000 and len(history.losses) >= 100 and history.level > 0.2 * (history.baseline or history.start):
        reason = reason or f"after {len(history.losses)} steps the loss is still {history.level:.3g}"
    if not reason:
        return None
    return Sign(f"targets of mean {facts.get('mean', 0.0):.3g} and deviation {facts['std']:.3g}, and {reason}", "30")


RULE = Rule(
    code="D04",
    slug="unscaled-target",
    judge=judge,
    gated=False,
    fixes=(Fix("Standardise the targets, and turn predictions back", "standardise targets"),),
    refute="With standardised targets the loss is no better than a constant answer's after as many steps.",
)
