"""L05 broadcast-loss: predictions and targets have different shapes, and are compared all with all.

What it looks for: a loss of n predictions and n targets whose shapes differ, so that n × n pairs are formed.
Why it matters: the best answer becomes the mean.
Usual causes: (N, 1) against (N,).
Known false alarms: none.
Fix: target.view_as(prediction).
"""

from fieldguide.doctor.facts import REGRESSION, loss_name
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    pair = history.fact("loss", "broadcast")
    if pair:
        return Sign(f"a difference of shapes {pair[0]} and {pair[1]} forms every pair of samples", "any")
    output, target = history.fact("loss", "output_shape"), history.fact("loss", "target_shape")
    if not output or not target or loss_name(history) not in REGRESSION or output == target:
        return None
    return Sign(f"predictions {output} are compared with targets {target}", "equal shapes")


RULE = Rule(
    code="L05",
    slug="broadcast-loss",
    judge=judge,
    severity="critical",
    fixes=(Fix("Give target and prediction the same shape", "view_as"),),
    refute="Prediction and target have the same shape where they meet.",
    **exact("setup"),
)
