"""D10 train-val-shift: training and validation inputs are prepared differently.

What it looks for: the mean of more than 10 % of the features differs by more than half a standard deviation, and the
validation loss is worse than a constant answer's or far above the training loss.
Why it matters: the network is asked about inputs it has never seen the like of.
Usual causes: normalisation in one transform only; statistics of each part by itself; another source.
Known false alarms: a shift that the network copes with: its losses agree and it is not named.
Fix: one preparation for both, fitted on the training part.
"""

from fieldguide.doctor.facts import continuous_input
from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    facts, losses = (
        history.setup.get("eval_inputs", {}),
        [record["loss"] for record in history.evals if "loss" in record],
    )
    share = facts.get("shifted", 0.0)
    if share <= 0.1 or facts.get("samples", 0) < 64 or len(losses) < 2 or "float" not in facts.get("dtype", ""):
        return None
    if (
        not history.losses
        or not continuous_input(history)
        or min(losses[-2:]) < 1.5 * max(history.level, 0.1 * abs(history.start))
    ):
        return None
    return Sign(
        f"{share:.0%} of the features have another mean in validation, whose loss is {losses[-1]:.3g} "
        f"against {history.level:.3g}",
        "10 % of the features by half a deviation",
    )


RULE = Rule(
    code="D10",
    slug="train-val-shift",
    judge=judge,
    on=frozenset({"eval"}),
    gated=False,
    persistent=False,
    fixes=(Fix("Use one preparation for both parts, fitted on the training part"),),
    refute="Means and deviations of the two parts agree after preparation.",
)
