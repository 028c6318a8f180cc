"""P13 init-scale: signals grow or shrink from layer to layer before anything is learned.

What it looks for: in the first steps, activations that change by more than 30 times on the way through linear and
convolutional layers, in a run that fails or begins ten times above where it should.
Why it matters: gradients do the same on the way back.
Usual causes: initial values for another activation or width; no normalisation.
Known false alarms: networks that are built to begin at zero output: their last layer is left out.
Fix: He or Glorot initial values, or normalisation.
"""

import math

from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    kinds = {layer["name"]: layer.get("type", "") for layer in history.setup.get("layers", [])}
    gains = [
        (facts["std"] * math.prod(facts["shape"][1:]) ** 0.5, name)
        for name, facts in history.setup.get("tensors", {}).items()
        if facts.get("std") and kinds.get(facts.get("layer", ""), "").startswith(("Linear", "Conv"))
    ]
    if not gains:
        return None
    gain, name = sorted(gains)[len(gains) // 2]
    if 0.01 <= gain <= 8:
        return None
    return Sign(
        f"weights begin {gain:.2g} times as large as they should keep a signal's size, as in {name}", "0.01 to 8"
    )


RULE = Rule(
    code="P13",
    slug="init-scale",
    judge=judge,
    fixes=(Fix("Draw initial values by He (ReLU) or Glorot (tanh), or normalise", "init"),),
    refute="With He initial values the first 50 steps go no better.",
    **exact("setup"),
)
