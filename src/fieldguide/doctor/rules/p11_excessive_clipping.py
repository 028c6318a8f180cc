"""P11 excessive-clipping: every gradient is cut to a small part of itself.

What it looks for: a failing run in which more than 95 % of the steps are clipped, to less than a tenth.
Why it matters: the step has the length of the limit and not of the gradient: a hidden, tiny learning rate.
Usual causes: a limit from another loss scale; clipping by a norm that grows with the number of parameters.
Known false alarms: clipping as normalisation with a rate to match, in runs that learn.
Fix: raise the limit to about the median norm.
"""

from statistics import median

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    shares = history.series("clipped", 5)
    norm, limit = history.last.get("clip_norm", 0.0), history.last.get("clip_limit", 0.0)
    if len(shares) < 3 or median(shares) < 0.95 or not norm or limit > 0.1 * norm:
        return None
    return Sign(
        f"{median(shares):.0%} of the steps are clipped, this one from {norm:.3g} to {limit:.3g}", "95 %, to a tenth"
    )


RULE = Rule(
    code="P11",
    slug="excessive-clipping",
    judge=judge,
    fixes=(Fix("Raise the limit to the median gradient norm", "clip none"),),
    refute="Without clipping the loss falls no faster.",
)
