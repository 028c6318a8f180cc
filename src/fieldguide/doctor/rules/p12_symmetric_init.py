"""P12 symmetric-init: all units of a layer begin the same, and stay so.

What it looks for: more than 60 % of the weight matrices whose rows are all equal before the first step.
Why it matters: equal units get equal gradients: a layer of a thousand is as good as one.
Usual causes: zeros or a constant as initial values.
Known false alarms: single layers that begin at zero on purpose (last of a block, adapters, heads).
Fix: draw initial values at random.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    tensors = history.setup.get("tensors", {}).items()
    matrices = [(name, facts) for name, facts in tensors if "equal_rows" in facts and facts.get("trainable")]
    equal = [name for name, facts in matrices if facts["equal_rows"] and facts["shape"][0] > 1]
    if len(equal) < 2 or len(equal) <= 0.6 * len(matrices):
        return None
    return Sign(f"{len(equal)} of {len(matrices)} weight matrices have equal rows, the first is {equal[0]}", "60 %")


RULE = Rule(
    code="P12",
    slug="symmetric-init",
    judge=judge,
    severity="critical",
    fixes=(Fix("Draw initial values at random, by He or Glorot", "init"),),
    refute="The rows of these matrices differ after ten steps.",
    **exact("setup"),
)
