"""M16 mask-leak: attention sees what it must not, or nothing at all.

What it looks for: a next-token network whose earlier outputs change with later tokens; attention rows that see
nothing and become NaN.
Why it matters: the loss is far too good, and generation is worthless.
Usual causes: the causal mask missing or inverted; padding masks that hide whole rows.
Known false alarms: bidirectional networks, whose targets are not the next tokens: not tested.
Fix: a causal mask for every layer; at least one visible key for each query.
"""

from fieldguide.doctor.facts import tested
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    for name in ("causal", "masked_rows"):
        test = tested(history, name)
        if test:
            return Sign(test["says"], "any")
    return None


RULE = Rule(
    code="M16",
    slug="mask-leak",
    judge=judge,
    severity="critical",
    fixes=(Fix("Pass a causal mask to every attention layer", "causal mask"),),
    refute="Changing the last token changes no earlier output.",
    **exact("setup"),
)
