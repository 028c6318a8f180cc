"""P13 init-scale: signals grow or shrink from layer to layer before anything is learned.

What it looks for: in the first steps, activations that change by more than 30 times on the way through linear and
convolutional layers, in a run that fails or begins ten times above where it should.
Why it matters: gradients do the same on the way back.
Usual causes: initial values for another activation or width; no normalisation.
Known false alarms: networks that are built to begin at zero output: their last layer is left out.
Fix: He or Glorot initial values, or normalisation.
"""

import math

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    early = [sample for sample in history.samples[:3] if "layers" in sample]
    if not early:
        return None
    signs = [s for s in early[0]["layers"].values() if s.get("type", "").startswith(("Linear", "Conv"))][:-1]
    ratios = [s["output"] / s["input"] for s in signs if s.get("input") and s.get("output")]
    gain = math.prod(ratios)
    most = max((max(r, 1 / r) for r in ratios), default=1.0)
    expected = history.fact("loss", "expected") or history.fact("loss", "baseline")
    far = bool(expected) and history.start > 10 * expected
    if not (history.failing or far) or (1 / 30 < gain < 30 and most < 30):
        return None
    return Sign(
        f"at the start {len(ratios)} layers change the size of their input {gain:.2g}-fold, one of them {most:.2g}-fold",
        "30",
    )


RULE = Rule(
    code="P13",
    slug="init-scale",
    judge=judge,
    gated=False,
    fixes=(Fix("Draw initial values by He (ReLU) or Glorot (tanh), or normalise", "init"),),
    refute="With He initial values the first 50 steps go no better.",
)
