"""M17 attention-collapse: all positions of a sequence become the same.

What it looks for: a failing run whose hidden states of different positions have a mean cosine above 0.98 in the last
layers.
Why it matters: attention has nothing left to tell apart.
Usual causes: a rate too high; no residual connections; no positions.
Known false alarms: sequences of equal tokens; pooled outputs.
Fix: residual connections, normalised queries and keys, a lower rate.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    found = history.layers("similarity")
    if len(found) < 3:
        return None
    layer, value = list(found.items())[-2]
    return (
        Sign(f"positions of a sequence have a mean cosine of {value:.3f} in {layer}", "0.98") if value > 0.98 else None
    )


RULE = Rule(
    code="M17",
    slug="attention-collapse",
    judge=judge,
    fixes=(Fix("Lower the rate, or normalise queries and keys", "lr / 10"),),
    refute="The positions differ after a few hundred steps.",
)
