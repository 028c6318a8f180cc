"""O03 val-better-than-train: validation looks better than training.

What it looks for: a validation loss below 0.7 times the training loss in the last evaluations.
Why it matters: it is usually harmless (dropout, augmentation) and sometimes a leak.
Usual causes: dropout, augmentation and label smoothing in training only; an easier validation part; leakage.
Known false alarms: all of the above: advice and no alarm.
Fix: compare both in evaluation mode.
"""

import math

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    losses = [record["loss"] for record in history.evals[-3:] if math.isfinite(record.get("loss", math.nan))]
    if len(losses) < 3 or not history.level > 0 or max(losses) > 0.7 * history.level:
        return None
    return Sign(
        f"validation losses are at most {max(losses):.3g} and the training loss is {history.level:.3g}", "0.7 times"
    )


RULE = Rule(
    code="O03",
    slug="val-better-than-train",
    judge=judge,
    on=frozenset({"end"}),
    gated=False,
    persistent=False,
    severity="info",
    fixes=(Fix("Evaluate both parts in the same mode"),),
    refute="In evaluation mode the training part's loss is as low.",
)
