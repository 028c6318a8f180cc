"""M06 missing-nonlinearity: several layers without anything between them.

What it looks for: a network with at least two trained layers that is one affine map: f(a + b) = f(a) + f(b) − f(0).
Why it matters: it can learn no more than a single layer.
Usual causes: activations forgotten, or passed where they are not used.
Known false alarms: linear maps of low rank (principal components, LoRA): layers narrower than both ends are left out;
deep linear networks on purpose (theory).
Fix: an activation after every hidden layer.
"""

from fieldguide.doctor.facts import tested
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    test = tested(history, "affine")
    return Sign(test["says"], "any") if test else None


RULE = Rule(
    code="M06",
    slug="missing-nonlinearity",
    judge=judge,
    fixes=(Fix("Put an activation after every hidden layer", "add activation"),),
    refute="f(a + b) differs from f(a) + f(b) − f(0).",
    **exact("setup"),
)
