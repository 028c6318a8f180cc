"""L03 sum-reduction: the loss grows with the batch.

What it looks for: the loss of a whole batch above 1.5 times the mean of its halves', in a failing run or with updates
above 3 %.
Why it matters: the rate depends on the batch, usually far too high.
Usual causes: reduction="sum", or a sum written by hand.
Known false alarms: sums with a rate to match, in runs that learn.
Fix: use the mean, or divide the rate by the batch.
"""

from fieldguide.doctor.facts import batch_size, tested
from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    test, factor, size = tested(history, "loss_scale"), history.fact("loss", "factor") or 1.0, batch_size(history) or 0
    scaled = any("scale" in sample for sample in history.samples[-1:])
    if 1000 * size >= factor >= size > 1 and not scaled and (history.failing or _wild(history)):
        return Sign(f"backward is called on {factor:.4g} times the mean of the loss function", "the batch size")
    return Sign(test["says"], "1.5 times") if test and (history.failing or _wild(history)) else None


def _wild(history: History) -> bool:
    ratios = history.series("update_ratio", 3)
    return len(ratios) == 3 and min(ratios) > 0.03


RULE = Rule(
    code="L03",
    slug="sum-reduction",
    judge=judge,
    gated=False,
    persistent=False,
    on=frozenset({"sample", "end"}),
    fixes=(
        Fix("Use reduction=mean", "mean"),
        Fix("Divide the learning rate by the batch size", "lr / 100"),
    ),
    refute="The loss of half a batch is as large.",
)
