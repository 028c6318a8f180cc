"""D11 constant-input: the inputs say nothing.

What it looks for: more than 90 % of the samples without any variation inside them, in inputs of at least eight
numbers.
Why it matters: there is nothing to tell one sample from another.
Usual causes: a path or column that does not exist and is filled with zeros; images multiplied or clamped to one
value.
Known false alarms: inputs of one number are not judged.
Fix: look at one batch as it reaches the network.
"""

from math import prod

from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    facts = history.setup.get("inputs", {})
    constant, samples = facts.get("constant", 0), facts.get("samples", 0)
    if prod(facts.get("shape", [])[1:]) < 8 or samples < 16 or constant <= 0.9 * samples:
        return None
    return Sign(f"{constant} of {samples} input samples have one value only", "90 %")


RULE = Rule(
    code="D11",
    slug="constant-input",
    judge=judge,
    severity="critical",
    fixes=(Fix("Print one batch as it reaches the network, and follow it back to the file"),),
    refute="batch.flatten(1).std(1) is above 0 for most samples.",
    **exact("setup"),
)
