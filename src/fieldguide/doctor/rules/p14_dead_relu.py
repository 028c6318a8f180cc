"""P14 dead-relu: most units of a layer are zero for every sample.

What it looks for: a failing run with a layer of which more than half of the inputs were zero for the whole batch.
Why it matters: a dead unit gets no gradient and never comes back.
Usual causes: a rate too high; large negative biases; unscaled inputs.
Known false alarms: sparse networks that learn; one-hot inputs: the first layer is left out.
Fix: a lower rate, zero biases, LeakyReLU or GELU.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    dead = list(history.layers("dead").items())[1:]
    if not dead:
        return None
    layer, share = max(dead, key=lambda pair: pair[1])
    return Sign(f"{share:.0%} of the inputs of {layer} are zero for every sample", "half") if share > 0.5 else None


RULE = Rule(
    code="P14",
    slug="dead-relu",
    judge=judge,
    fixes=(Fix("Start biases at zero, lower the rate, or use LeakyReLU or GELU", "revive"),),
    refute="The units answer to other batches.",
)
