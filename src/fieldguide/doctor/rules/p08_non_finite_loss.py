"""P08 non-finite-loss: the loss is NaN or infinite.

What it looks for: a loss that is not a finite number.
Why it matters: from here on every parameter becomes NaN.
Usual causes: a rate too high; log or division of zero; overflow in 16 bits; NaN in the data.
Known false alarms: none.
Fix: find the first module that made it (named here), then lower the rate, add an epsilon, or keep that part in 32
bits.
"""

import math

from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    recent = [
        (record["step"], record["loss"]) for record in history.steps[-100:] or history.samples[-5:] if "loss" in record
    ]
    bad = next(((step, loss) for step, loss in recent if not math.isfinite(loss)), None)
    if bad is None:
        return None
    signs = history.last.get("layers", {})
    first = next((name for name, own in signs.items() if not math.isfinite(own.get("output", 0.0))), None)
    where = f"; the first layer whose output is not finite is {first}" if first else ""
    return Sign(f"the loss is {bad[1]} at step {bad[0]}{where}", "any")


RULE = Rule(
    code="P08",
    slug="non-finite-loss",
    judge=judge,
    severity="critical",
    fixes=(Fix("Lower the rate, and keep logs and divisions away from zero", "lr / 10"),),
    refute="The loss of the same batch is finite in float64.",
    **exact("sample", "end"),
)
