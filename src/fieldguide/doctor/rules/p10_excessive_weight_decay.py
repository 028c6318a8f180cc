"""P10 excessive-weight-decay: the decay pulls harder than the data.

What it looks for: a failing run in which weight decay's part of the gradient, or of the update, is larger than the
data's while the weights shrink; among several networks, whose losses cannot tell, weights that shrink to a fifth.
Why it matters: the weights end near zero whatever the data say.
Usual causes: a decay of AdamW given to Adam or the other way round; 1e-1 where 1e-4 was meant.
Known false alarms: the balance of a long run, in which both are equal and the loss is low.
Fix: divide the decay by 10 or more.
"""

from math import isfinite
from statistics import median

from fieldguide.doctor.facts import single
from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    ratios, norms = (list(filter(isfinite, history.series(name))) for name in ("decay_ratio", "weight_norm"))
    if (
        len(ratios) < 3
        or len(norms) < 3
        or max(median(ratios), median(ratios[-5:])) < 0.5
        or norms[-1] > 0.6 * norms[0]
    ):
        return None
    if not history.failing and (single(history) or norms[-1] > 0.2 * norms[0]):
        return None
    return Sign(
        f"weight decay's part is {median(ratios):.2g} times the data's, and the weights shrank from "
        f"{norms[0]:.3g} to {norms[-1]:.3g}",
        "half of the data's",
    )


RULE = Rule(
    code="P10",
    slug="excessive-weight-decay",
    judge=judge,
    gated=False,
    fixes=(Fix("Divide the weight decay by 10 or more", "weight_decay / 100"),),
    refute="Without weight decay the loss goes no lower.",
)
