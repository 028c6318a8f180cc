"""M07 disconnected-layer: part of the network has no way to the loss.

What it looks for: trained parameters without any gradient after the first backward passes.
Why it matters: they stay as they are, and what they were for is missing.
Usual causes: a module that forward never calls; detach or no_grad in between; an output that the loss does not use.
Known false alarms: layers used in some batches only: three are tried; a pooler or second head that this task does not
need: what is small is no more than advice.
Fix: call the layer in forward, or remove it.
"""

from fieldguide.doctor.facts import single, tested
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    test = tested(history, "connected")
    if not test or history.fact("loss", "detached") or not single(history):
        return None
    share = test.get("figure", 0.0)
    return Sign(test["says"], "5 %", severity="critical" if share > 0.3 else "warning" if share > 0.05 else "info")


RULE = Rule(
    code="M07",
    slug="disconnected-layer",
    judge=judge,
    fixes=(Fix("Call the layer in forward, or remove it"),),
    refute="Their gradient is not None after backward.",
    **exact("setup"),
)
