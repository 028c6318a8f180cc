"""D05 label-out-of-range: labels that the loss has no place for.

What it looks for: class numbers below 0 or beyond the last output; binary targets outside 0 to 1.
Why it matters: the first crashes (on an accelerator with an assertion); the second has a loss without a minimum.
Usual causes: labels that begin at 1; labels of −1 and 1; a file with one class more than the head.
Known false alarms: none: −100, which cross entropy leaves out, is not counted.
Fix: number the classes from 0; write binary targets as 0 and 1.
"""

from fieldguide.doctor.facts import BINARY, error, loss_name, outputs
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    facts, known, crash = history.setup.get("targets", {}), outputs(history), error(history)
    low, high = facts.get("min", 0.0), facts.get("max", 0.0)
    if loss_name(history) in BINARY and (low < -1e-6 or high > 1 + 1e-6):
        return Sign(f"targets lie between {low:.3g} and {high:.3g}; binary cross entropy knows 0 to 1", "0 to 1")
    if known and facts.get("whole") and "int" in facts.get("dtype", "") and (low < 0 or high >= known):
        return Sign(f"labels run from {low:.0f} to {high:.0f} and there are {known} outputs", f"0 to {known - 1}")
    if ("out of bounds" in crash and "Target" in crash) or "n_classes" in crash:
        return Sign(f"the script ended with: {crash}", f"0 to {known - 1}" if known else "")
    return None


RULE = Rule(
    code="D05",
    slug="label-out-of-range",
    judge=judge,
    severity="critical",
    fixes=(Fix("Number the classes 0 … K−1; write binary targets as 0 and 1"),),
    refute="labels.min() ≥ 0 and labels.max() < number of outputs for the whole data set.",
    **exact("setup", "end"),
)
