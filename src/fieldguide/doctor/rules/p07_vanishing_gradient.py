"""P07 vanishing-gradient: the first layers get next to no gradient.

What it looks for: a failing run where the gradient of the first layers, relative to their weights, is below a
thousandth of the last ones'.
Why it matters: they stay random, and the rest has to work with noise.
Usual causes: many layers of sigmoid or tanh; no residual connections or normalisation; small initial values.
Known false alarms: converged runs, and frozen first layers: the former do not fail, the latter have no gradient at
all.
Fix: ReLU or GELU, residual connections, normalisation, He or Glorot initial values.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    signs = history.last.get("layers", {})
    sizes = [
        (name, s["grad"] / s["weight"]) for name, s in signs.items() if s.get("weight") and "grad" in s and _matrix(s)
    ]
    if len(sizes) < 3:
        return None
    first, last = min(size for _, size in sizes[: max(1, len(sizes) // 3)]), max(size for _, size in sizes[-2:])
    if last <= 0 or first >= 1e-3 * last:
        return None
    return Sign(
        f"relative to its weights the gradient of {sizes[0][0]} is {sizes[0][1]:.1g}, that of "
        f"{sizes[-1][0]} {sizes[-1][1]:.1g}",
        "a thousandth of the last layers'",
    )


def _matrix(signs: dict) -> bool:
    return signs.get("type", "").startswith(("Linear", "Conv", "RNN", "LSTM", "GRU"))


RULE = Rule(
    code="P07",
    slug="vanishing-gradient",
    judge=judge,
    fixes=(
        Fix("Use ReLU or GELU, residual connections and normalisation", "normalise"),
        Fix("Draw initial values by He or Glorot", "init"),
    ),
    refute="The first layers learn as fast once the rate is raised for them alone.",
)
