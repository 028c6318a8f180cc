"""M08 parameter-not-in-optimizer: some of the network can never learn.

What it looks for: parameters that take part in the loss, want gradients, and belong to no optimizer.
Why it matters: they keep their random initial values, and the rest has to work around them.
Usual causes: a head that was replaced, or layers that were made, after the optimizer; layers kept in a plain list.
Known false alarms: parts trained by hand (say ``doctor.expect(frozen=…)``).
Fix: make the optimizer after the network, from ``model.parameters()``.
"""

from fnmatch import fnmatchcase

from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    tensors = history.setup.get("tensors", {}) if history.setup.get("optimizers") != [] else {}
    lost = [
        name
        for name, facts in tensors.items()
        if facts.get("trainable") and facts.get("gradient") == "there" and facts.get("in_optimizer") is False
        and not any(fnmatchcase(name, pattern) for pattern in history.intent.frozen)
    ]  # fmt: skip
    if not lost:
        return None
    shown = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
    return Sign(f"{len(lost)} of {len(tensors)} parameters get gradients but are in no optimizer: {shown}", "any")


RULE = Rule(
    code="M08",
    slug="parameter-not-in-optimizer",
    judge=judge,
    severity="critical",
    fixes=(Fix("Make the optimizer from all of model.parameters(), after the last layer is made", "add parameters"),),
    refute="Their values change between two steps.",
    **exact("setup"),
)
