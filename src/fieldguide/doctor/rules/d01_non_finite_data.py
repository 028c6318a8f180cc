"""D01 non-finite-data: the data hold NaN or infinity.

What it looks for: values that are not finite in inputs or targets, and a loss that is not finite either.
Why it matters: one such sample turns every weight into NaN at the next step.
Usual causes: missing values read as NaN; a division by a standard deviation of 0; a logarithm of 0.
Known false alarms: missing values that the network masks, which is why a finite loss keeps the rule silent.
Fix: find the samples with torch.isfinite, then repair or drop them.
"""

import math

from fieldguide.doctor.facts import newest_loss
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    loss = newest_loss(history)
    if loss is not None and math.isfinite(loss):
        return None
    for part in ("inputs", "targets"):
        count = history.fact(part, "non_finite")
        if count:
            return Sign(f"{count} values of the {part} are NaN or infinite, and so is the loss", "any")
    return None


RULE = Rule(
    code="D01",
    slug="non-finite-data",
    judge=judge,
    severity="critical",
    fixes=(Fix("Drop or repair the samples for which torch.isfinite is False", "drop non-finite"),),
    refute="torch.isfinite(batch).all() holds for every batch of the loader.",
    **exact("setup", "sample", "end"),
)
