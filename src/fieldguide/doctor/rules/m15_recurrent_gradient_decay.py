"""M15 recurrent-gradient-decay: the gradient dies on its way back through time.

What it looks for: a failing run of a recurrent network where the gradient at the first time step is below 1e-4 of the
last one's.
Why it matters: what happened early is never learned.
Usual causes: plain recurrent cells over long sequences.
Known false alarms: tasks that need the last steps only.
Fix: LSTM or GRU, shorter sequences, orthogonal initial values.
"""

from fieldguide.doctor.facts import tested
from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    test = tested(history, "time_gradient")
    gated = any(layer.get("type") in {"LSTM", "GRU"} for layer in history.setup.get("layers", []))
    if gated and test.get("figure", 0.0) > 1e-12:  # their gates open while they learn
        return None
    return Sign(test["says"], "1e-4") if test else None


RULE = Rule(
    code="M15",
    slug="recurrent-gradient-decay",
    judge=judge,
    on=frozenset({"sample"}),
    fixes=(Fix("Use LSTM or GRU, or shorter sequences", "gated cell"),),
    refute="Shuffling the early steps changes nothing.",
)
