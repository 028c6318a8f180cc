"""M05 softmax-wrong-axis: a softmax runs over the batch instead of the classes.

What it looks for: outputs whose columns, and not their rows, sum to one over the batch.
Why it matters: samples compete with one another.
Usual causes: softmax(dim=0), or a dim left out.
Known false alarms: none: with as many samples as classes and equal shares, rows sum to one too, and nothing is said.
Fix: softmax over dim=-1, or none before cross entropy.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    if not history.fact("loss", "column_sum_one") or history.fact("loss", "row_sum_one"):
        return None
    return Sign("what the loss is given sums to one over the batch and not over the classes", "any")


RULE = Rule(
    code="M05",
    slug="softmax-wrong-axis",
    judge=judge,
    severity="critical",
    fixes=(Fix("Remove the softmax, or let it run over the last axis", "remove softmax"),),
    refute="The columns of the output do not sum to one.",
    **exact("setup"),
)
