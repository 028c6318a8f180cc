"""D06 label-scaled: the labels were scaled like an input, or are all the same.

What it looks for: binary targets of two values whose larger one is below 0.5; one value only in a whole epoch.
Why it matters: the network learns to answer "no" to everything, and the loss looks excellent.
Usual causes: a transform of the images applied to the labels too (÷ 255); a column read twice.
Known false alarms: soft labels, which have many values; a network that is told real from made.
Fix: undo the scaling: targets are 0 and 1.
"""

from fieldguide.doctor.facts import BINARY, CLASSES, loss_name, single
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    facts, name = history.setup.get("targets", {}), loss_name(history)
    distinct, high = facts.get("distinct", 0), facts.get("max", 1.0)
    if name in BINARY and distinct == 2 and 0 < high < 0.5:
        return Sign(f"binary targets are {facts['min']:.3g} or {high:.3g}, never 1", "0.5")
    whole_epoch = facts.get("samples", 0) >= (history.fact("loader", "dataset_size") or float("inf"))
    if name in CLASSES | BINARY and distinct == 1 and whole_epoch and single(history):
        return Sign(f"all {facts['samples']} targets are {high:.3g}", "2 values")
    return None


RULE = Rule(
    code="D06",
    slug="label-scaled",
    judge=judge,
    severity="critical",
    fixes=(Fix("Take the labels as they are: whole numbers, 0 and 1 for binary targets", "unscale labels"),),
    refute="The largest label of the data set is 1 (binary) or K−1.",
    **exact("setup"),
)
