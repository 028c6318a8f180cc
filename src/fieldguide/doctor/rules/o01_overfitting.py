"""O01 overfitting: validation gets worse while training gets better.

What it looks for: a validation loss that has passed its minimum for at least 3 evaluations and risen by 10 %, by more
than its noise, while the training loss is lower.
Why it matters: from there on the network learns its samples by heart.
Usual causes: few samples for the network's size; too long a training; too little regularisation.
Known false alarms: small validation parts with noise; a loss that rises while accuracy does too: neither is named.
Fix: keep the best epoch's weights; augmentation, dropout, weight decay, more data.
"""

import itertools
import math
from statistics import median

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    known = [record for record in history.evals if math.isfinite(record.get("loss", math.nan))]
    losses = [record["loss"] for record in known]
    if len(losses) < 5:
        return None
    gap = _gap(history, losses)
    if gap:
        return gap
    best = min(range(len(losses)), key=losses.__getitem__)
    after = len(losses) - 1 - best
    now, changes = median(losses[-3:]), [abs(b - a) for a, b in itertools.pairwise(losses)]
    rise, reference = now - losses[best], history.baseline or abs(losses[0])
    if after < max(3, len(losses) // 10) or rise < 0.1 * abs(losses[best]) or rise < 0.15 * abs(reference):
        return None
    if rise < 2 * median(changes) or history.level > 0.8 * now or _still_better(known, best):
        return None
    return Sign(
        f"validation loss was {losses[best]:.3g} at step {known[best]['step']} and is {now:.3g} now, with "
        f"a training loss of {history.level:.3g}",
        "10 % above its minimum for 3 evaluations",
    )


def _gap(history: History, losses: list[float]) -> Sign | None:
    """Training has learned what validation does not show."""
    baseline, now = history.baseline, min(losses[-3:])
    if not baseline or history.level > 0.3 * now or now - history.level < 0.35 * baseline:
        return None
    return Sign(
        f"training has come to {history.level:.3g} and validation to {now:.3g}",
        "a gap of 35 % of a constant answer's loss",
    )


def _still_better(known: list[dict], best: int) -> bool:
    """Accuracy went on to rise after the loss's minimum."""
    scores = [record["accuracy"] for record in known if "accuracy" in record]
    return len(scores) == len(known) and median(scores[-3:]) > scores[best] + 0.005


RULE = Rule(
    code="O01",
    slug="overfitting",
    judge=judge,
    on=frozenset({"eval", "end"}),
    gated=False,
    persistent=False,
    fixes=(Fix("Stop at the best epoch; augment, regularise, or add data", "early stopping"),),
    refute="On fresh data of the same kind the last weights are as good as the best epoch's.",
)
