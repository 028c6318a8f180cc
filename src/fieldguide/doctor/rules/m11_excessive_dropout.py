"""M11 excessive-dropout: so much is dropped that little is left to learn from.

What it looks for: a dropout of 0.8 or more; above 0.5 in a failing run.
Why it matters: the signal is drowned in noise.
Usual causes: the share to keep given as the share to drop.
Known false alarms: very wide layers that can afford 0.5.
Fix: 0.1 to 0.5.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    layers = [(layer["p"], layer["name"]) for layer in history.setup.get("layers", []) if "p" in layer]
    if not layers:
        return None
    most, name = max(layers)
    if most < (0.5 if history.failing else 0.8) or most <= 0.5:
        return None
    return Sign(f"{name} drops {most:.0%}", "80 %, or 50 % in a failing run")


RULE = Rule(
    code="M11",
    slug="excessive-dropout",
    judge=judge,
    on=frozenset({"setup", "sample"}),
    gated=False,
    persistent=False,
    fixes=(Fix("Drop 10 to 50 %", "dropout 0.2"),),
    refute="Without dropout the training loss falls no faster.",
)
