"""P03 missing-zero-grad: gradients of earlier steps are added to those of this one.

What it looks for: the first backward pass after an optimizer step that finds the gradients of the step before still
there.
Why it matters: every step follows a sum over the whole past: rates and directions are wrong.
Usual causes: zero_grad missing, or called between backward and step.
Known false alarms: none: accumulation clears after its step.
Fix: call optimizer.zero_grad() once per step, before backward.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    known = [sample["stale_gradient"] for sample in history.samples if "stale_gradient" in sample]
    if sum(known[-5:]) < 3 or not known[-1]:
        return None
    return Sign(
        f"at step {history.step} backward added to gradients that the step before had used already",
        "3 of the last 5 samples",
    )


RULE = Rule(
    code="P03",
    slug="missing-zero-grad",
    judge=judge,
    gated=False,
    persistent=False,
    severity="critical",
    fixes=(Fix("Call optimizer.zero_grad() before every backward pass of a new step", "zero_grad"),),
    refute="The gradients are None or zero right before backward.",
)
