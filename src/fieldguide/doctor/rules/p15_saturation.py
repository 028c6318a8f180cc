"""P15 saturation: most units sit where tanh or sigmoid are flat.

What it looks for: a failing run with a layer of which more than half of the inputs come from a tanh or sigmoid with
less than 1 % of its largest slope.
Why it matters: flat units pass no gradient.
Usual causes: initial values too large; unscaled inputs; a rate too high.
Known false alarms: gates that are open or shut in networks that learn.
Fix: smaller initial values, normalised inputs, ReLU or GELU.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    shares = history.layers("saturated")
    if not shares:
        return None
    layer, share = max(shares.items(), key=lambda pair: pair[1])
    limit = 0.5 if history.failing else 0.8
    if share <= limit:
        return None
    return Sign(f"{share:.0%} of the inputs of {layer} are saturated", "80 %, or half in a failing run")


RULE = Rule(
    code="P15",
    slug="saturation",
    judge=judge,
    gated=False,
    fixes=(Fix("Scale inputs and initial values down, or use ReLU or GELU", "init"),),
    refute="With weights of half the size as many are saturated.",
)
