"""D17 augmented-validation: the validation inputs change from pass to pass.

What it looks for: two evaluations with the same targets in the same order and other inputs.
Why it matters: the figures go up and down with the dice, and are worse than they should be.
Usual causes: one data set with the training transforms, split in two.
Known false alarms: evaluations on random batches have other targets as well, and are not named.
Fix: a transform of its own for validation, without random parts.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    changed = history.fact("eval_inputs", "changed") or 0.0
    if changed <= 0.5:
        return None
    return Sign(f"{changed:.0%} of the validation inputs differ from the pass before, under the same targets", "50 %")


RULE = Rule(
    code="D17",
    slug="augmented-validation",
    judge=judge,
    severity="info",
    fixes=(Fix("Give validation a transform without random parts"),),
    refute="Two passes over the validation loader give equal tensors.",
    **exact("setup", "eval", "end"),
)
