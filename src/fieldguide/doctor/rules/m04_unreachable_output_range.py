"""M04 unreachable-output-range: the last activation cannot say what the targets ask for.

What it looks for: a regression whose last operation is a ReLU, sigmoid or tanh, with more than 1 % of the targets
outside its range by more than a tenth of their deviation.
Why it matters: those targets are missed whatever is learned, and a cut output has no gradient.
Usual causes: an activation after the last layer, copied from the hidden ones.
Known false alarms: none.
Fix: leave the last layer linear.
"""

import math

from fieldguide.doctor.facts import REGRESSION, loss_name, made_by
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History

RANGES = {
    "relu": (0.0, math.inf),
    "sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "softmax": (0.0, 1.0),
    "softplus": (0.0, math.inf),
}


def judge(history: History) -> Sign | None:
    made, targets = made_by(history), history.setup.get("targets", {})
    low, high = targets.get("low", targets.get("min")), targets.get("high", targets.get("max"))
    mean, std = history.fact("targets", "mean"), history.fact("targets", "std")
    if made not in RANGES or loss_name(history) not in REGRESSION or low is None or high is None or not std:
        return None
    least, most = RANGES[made]
    below, above = (least - low) / std, (high - most) / std
    if max(below, above) < 0.1:
        return None
    return Sign(
        f"targets reach from {low:.3g} to {high:.3g} (mean {mean:.3g}), and {made} gives {least:g} to {most:g}",
        "the range of the activation",
    )


RULE = Rule(
    code="M04",
    slug="unreachable-output-range",
    judge=judge,
    severity="critical",
    fixes=(Fix("Leave the last layer linear", "linear head"),),
    refute="Predictions come near the smallest and the largest target.",
    **exact("setup"),
)
