"""L04 loss-task-mismatch: a regression loss on class numbers, or the other way round.

What it looks for: a squared error on whole-number targets from 0 to K−1 with at most 100 of them, where the network
has K outputs or the run fails.
Why it matters: class 9 is not three times class 3.
Usual causes: MSELoss kept from another task.
Known false alarms: ratings and counts, which are numbers: only networks with K outputs, or failing runs, are named.
Fix: cross entropy for classes, a squared error for numbers.
"""

from fieldguide.doctor.facts import REGRESSION, head_width, loss_name
from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    classes = history.fact("targets", "classes") or {}
    if loss_name(history) not in REGRESSION or not history.fact("targets", "whole") or not 3 <= len(classes) <= 100:
        return None
    numbers = sorted(int(name) for name in classes)
    if numbers[0] < 0 or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        return None
    width = head_width(history)
    if width != len(numbers) and not history.failing:
        return None
    return Sign(f"{loss_name(history)} on the class numbers {numbers[0]} to {numbers[-1]}, with {width} outputs", "any")


RULE = Rule(
    code="L04",
    slug="loss-task-mismatch",
    judge=judge,
    gated=False,
    persistent=False,
    on=frozenset({"setup", "sample"}),
    severity="critical",
    fixes=(Fix("Use cross entropy", "cross entropy"),),
    refute="Neighbouring class numbers mean neighbouring things.",
)
