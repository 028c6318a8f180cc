"""L02 loss-wrong-sign: the loss falls below what it can be: it is turned around.

What it looks for: a loss below zero of a function that is never negative, or that function's value growing while
backward's falls.
Why it matters: training makes the network worse on purpose.
Usual causes: a minus sign; maximising what should be minimised.
Known false alarms: likelihoods of densities and critics, which may be negative: they are other functions.
Fix: minimise the loss itself.
"""

import math

from fieldguide.doctor.facts import loss_name, single
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History

POSITIVE = {
    "cross_entropy",
    "nll_loss",
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "binary_cross_entropy",
} | {"binary_cross_entropy_with_logits"}


def judge(history: History) -> Sign | None:
    name = loss_name(history)
    value = history.fact("loss", "value")
    if name not in POSITIVE or not single(history):
        return None
    negative = [loss for loss in history.finite[:20] if loss < 0]
    if len(negative) < min(3, len(history.finite)) or not negative or (value is not None and value > 0):
        return None
    factor = history.fact("loss", "factor") or 1.0
    if not math.isclose(factor, 1.0, rel_tol=1e-3) and not _sign(factor):
        return None
    return Sign(f"backward is called on {negative[-1]:.3g}, and {name} is never negative", "0")


def _sign(factor: float) -> bool:
    """Minus one, or that over the micro-batches of a step: other factors come of what is added to the loss."""
    return factor < 0 and math.isclose(1 / factor, round(1 / factor), rel_tol=1e-3)


RULE = Rule(
    code="L02",
    slug="loss-wrong-sign",
    judge=judge,
    severity="critical",
    fixes=(Fix("Minimise the loss itself: remove the minus sign", "flip sign"),),
    refute="The loss of correct answers is lower than that of wrong ones.",
    **exact("sample", "setup"),
)
