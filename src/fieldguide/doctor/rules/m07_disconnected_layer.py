"""M07 disconnected-layer: part of the network has no way to the loss.

What it looks for: trained parameters without any gradient after the first backward passes.
Why it matters: they stay as they are, and what they were for is missing.
Usual causes: a module that forward never calls; detach or no_grad in between; an output that the loss does not use.
Known false alarms: layers that are used in some batches only: three batches are tried.
Fix: call the layer in forward, or remove it.
"""

from fieldguide.doctor.facts import single, tested
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    test = tested(history, "connected")
    if not test or history.fact("loss", "detached") or not single(history):
        return None
    return Sign(test["says"], "any", severity="critical" if test.get("figure", 0) > 0.3 else "warning")


RULE = Rule(
    code="M07",
    slug="disconnected-layer",
    judge=judge,
    fixes=(Fix("Call the layer in forward, or remove it"),),
    refute="Their gradient is not None after backward.",
    **exact("setup"),
)
