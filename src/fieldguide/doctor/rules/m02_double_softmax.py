"""M02 double-softmax: the loss is given probabilities where it wants scores.

What it looks for: cross entropy of rows that are not negative and sum to one, or a log-softmax right after a softmax.
Why it matters: the softmax is applied twice: the loss cannot come near zero and gradients are small.
Usual causes: a Softmax at the end of the network together with CrossEntropyLoss.
Known false alarms: none: raw scores never look like that.
Fix: remove the softmax (or use NLLLoss with log_softmax).
"""

from fieldguide.doctor.facts import loss_name, made_by
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    name, high = loss_name(history), history.fact("loss", "output_max")
    if name == "cross_entropy" and history.fact("loss", "row_sum_one"):
        return Sign("cross entropy is given rows that sum to one: a softmax was applied before", "any")
    if name == "nll_loss" and made_by(history) == "softmax" and high is not None and high <= 0:
        return Sign("the log-softmax of the loss is given the result of another softmax", "any")
    return None


RULE = Rule(
    code="M02",
    slug="double-softmax",
    judge=judge,
    severity="critical",
    fixes=(Fix("Remove the softmax before the cross entropy", "remove softmax"),),
    refute="A row of what the loss is given does not sum to one.",
    **exact("setup"),
)
