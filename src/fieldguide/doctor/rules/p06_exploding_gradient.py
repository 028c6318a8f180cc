"""P06 exploding-gradient: gradients jump far above their usual size, and the loss with them.

What it looks for: a failing run where at least 3 of the last 20 samples have a gradient norm above 10 times the
median before them; or gradients that are not finite.
Why it matters: one such step undoes hundreds.
Usual causes: no clipping in recurrent networks; a rate at the edge; outliers in the data.
Known false alarms: heavy tails of rewards and rare tokens in runs that learn: they are not failing.
Fix: clip the global norm at about twice its median.
"""

import math
from statistics import median

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    norms = history.series("grad_norm")
    if norms and not math.isfinite(norms[-1]):
        return Sign("the gradient norm is not finite", "any")
    high = [
        norm for place, norm in enumerate(norms[-20:], start=max(0, len(norms) - 20))
        if place >= 5 and norm > 10 * median(norms[max(0, place - 20) : place]) > 0
    ]  # fmt: skip
    if len(high) < 3:
        return None
    return Sign(
        f"{len(high)} of the last 20 gradient norms were above 10 times their median, up to {max(high):.3g}", "3 of 20"
    )


RULE = Rule(
    code="P06",
    slug="exploding-gradient",
    judge=judge,
    fixes=(
        Fix("Clip the gradient norm at twice its median", "clip"),
        Fix("Divide the learning rate by 3", "lr / 3"),
    ),
    refute="With the norm clipped the loss goes no lower.",
)
