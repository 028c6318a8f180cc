"""M02 double-softmax: the loss is given probabilities where it wants scores.

What it looks for: cross entropy of rows that are not negative and sum to one, or a log-softmax right after a softmax;
binary cross entropy with logits right after a sigmoid or softmax.
Why it matters: the softmax is applied twice: the loss cannot come near zero and gradients are small.
Usual causes: a Softmax at the end of the network together with CrossEntropyLoss; a Sigmoid with BCEWithLogitsLoss.
Known false alarms: none: raw scores never look like that.
Fix: remove the softmax or sigmoid (or use NLLLoss with log_softmax, BCELoss with a sigmoid).
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
    if name == "binary_cross_entropy_with_logits" and made_by(history) in {"sigmoid", "softmax"}:
        return Sign(f"binary cross entropy with logits is given the result of a {made_by(history)}", "any")
    return None


RULE = Rule(
    code="M02",
    slug="double-softmax",
    judge=judge,
    severity="critical",
    fixes=(Fix("Remove the softmax or sigmoid before the loss, which applies its own", "remove softmax"),),
    refute="What the loss is given is no probability: it does not sum to one, or lies outside 0 to 1.",
    **exact("setup"),
)
