"""O02 underfitting: training and validation are equally poor.

What it looks for: at the end, a training loss above half of a constant answer's that no longer falls, with validation
within 10 % of it; a warning where a copy did not learn a single batch either, to 70 % of its first loss.
Why it matters: more of the same will not help.
Usual causes: too small a network; too much regularisation; features without the answer.
Known false alarms: tasks whose noise allows no better: this is advice and no alarm where one batch can be learned.
Fix: a larger network, a higher rate, less regularisation.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    losses = [record["loss"] for record in history.evals if "loss" in record]
    if not losses or not history.baseline or history.level < 0.5 * history.baseline:
        return None
    probe = history.probes.get("one_batch")
    weak = bool(probe) and probe["end"] > 0.7 * probe["start"] > 0
    if history.descending and not weak:
        return None
    if abs(losses[-1] - history.level) > 0.1 * history.level:
        return None
    batch = (
        f", and one batch was learned from {probe['start']:.3g} to {probe['end']:.3g} only" if probe and weak else ""
    )
    return Sign(
        f"training ({history.level:.3g}) and validation ({losses[-1]:.3g}) stay near a constant "
        f"answer's {history.baseline:.3g}{batch}",
        "half of a constant answer's",
        "warning" if weak else None,
    )


RULE = Rule(
    code="O02",
    slug="underfitting",
    judge=judge,
    on=frozenset({"end"}),
    gated=False,
    persistent=False,
    severity="info",
    fixes=(Fix("Try a larger network or less regularisation", "widen"),),
    refute="A network of twice the width does no better.",
)
