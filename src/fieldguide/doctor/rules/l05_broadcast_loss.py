"""L05 broadcast-loss: predictions and targets have different shapes, and are compared all with all.

What it looks for: a loss of n predictions and n targets whose shapes differ, so that n × n pairs are formed.
Why it matters: the best answer becomes the mean.
Usual causes: (N, 1) against (N,).
Known false alarms: one target for all predictions, which forms no new pairs; losses of all pairs on purpose, with
reduction="none": neither is named.
Fix: target.view_as(prediction).
"""

from itertools import zip_longest
from math import prod

from fieldguide.doctor.facts import REGRESSION, loss_name
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    pair = history.fact("loss", "broadcast")
    if pair:
        return Sign(f"a difference of shapes {pair[0]} and {pair[1]} forms every pair of samples", "any")
    output, target = history.fact("loss", "output_shape"), history.fact("loss", "target_shape")
    if not output or not target or loss_name(history) not in REGRESSION:
        return None
    pairs = prod(max(sides) for sides in zip_longest(reversed(output), reversed(target), fillvalue=1))
    if pairs <= max(prod(output), prod(target)) or history.fact("loss", "reduction") == "none":
        return None
    return Sign(f"predictions {output} and targets {target} are compared as {pairs} pairs", "as many as there are")


RULE = Rule(
    code="L05",
    slug="broadcast-loss",
    judge=judge,
    severity="critical",
    fixes=(Fix("Give target and prediction the same shape", "view_as"),),
    refute="Prediction and target have the same shape where they meet.",
    **exact("setup"),
)
