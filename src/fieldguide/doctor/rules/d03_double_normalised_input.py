"""D03 double-normalised-input: the inputs hardly differ from one another.

What it looks for: inputs of a standard deviation below 0.02, and a network whose output does not notice them or a
failing run.
Why it matters: the network sees a constant; only its biases learn.
Usual causes: pixels divided by 255 twice (ToTensor does it already); a standardisation on top of another.
Known false alarms: small units before a normalisation layer: there the output does notice.
Fix: leave one of the two scalings out.
"""

from fieldguide.doctor.facts import stuck, tested
from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    facts = history.setup.get("inputs", {})
    if "float" not in facts.get("dtype", "") or not 0 < facts.get("std", 1.0) < 0.02:
        return None
    unnoticed = tested(history, "input_matters")
    reason = unnoticed.get("says") or stuck(history)
    return Sign(f"the inputs deviate by {facts['std']:.2g} only, and {reason}", "0.02") if reason else None


RULE = Rule(
    code="D03",
    slug="double-normalised-input",
    judge=judge,
    gated=False,
    fixes=(Fix("Scale the inputs once: to a mean of 0 and a deviation of 1", "standardise inputs"),),
    refute="With standardised inputs the first 50 steps go no better.",
)
