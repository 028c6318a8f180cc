"""M03 missing-output-activation: probabilities are wanted and something else is given.

What it looks for: binary cross entropy of values outside 0 to 1 or cut to that range; negative log likelihood of
scores that are no log-probabilities; a softmax over a single unit.
Why it matters: the loss is wrong, or its gradient is zero where it was cut.
Usual causes: BCELoss instead of BCEWithLogitsLoss; NLLLoss without log_softmax; Softmax on one output.
Known false alarms: probabilities kept from 0 and 1 by a clamp: they begin far from both ends, and are not named.
Fix: use binary_cross_entropy_with_logits or cross_entropy on raw scores.
"""

from fieldguide.doctor.facts import error, loss_name, made_by
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    name, low, high = loss_name(history), history.fact("loss", "output_min"), history.fact("loss", "output_max")
    crashed = error(history)
    if "between 0 and 1" in crashed or "[0,1]" in crashed.replace(" ", ""):
        return Sign(f"the script crashed: {crashed}", "any")
    if low is None or high is None:
        return None
    if name == "binary_cross_entropy":
        if low < 0 or high > 1:
            return Sign(f"binary cross entropy is given values from {low:.3g} to {high:.3g}", "0 to 1")
        cut = made_by(history).startswith(("clamp", "clip", "relu", "hardtanh")) and (low < 1e-3 or high > 1 - 1e-3)
        if cut or (high == 1 and low in {0, 1}):
            return Sign(
                f"binary cross entropy is given values that were cut to {low:.3g} … {high:.3g}", "0.001 from 0 or 1"
            )
    if (
        name == "nll_loss"
        and made_by(history) not in {"logsoftmax", "log"}
        and high > 1e-4
        and not _log_probabilities(history)
    ):
        return Sign(f"negative log likelihood is given values up to {high:.3g}, which are no log-probabilities", "0")
    shape = history.fact("loss", "output_shape") or []
    if made_by(history) == "softmax" and shape and shape[-1] == 1:
        return Sign("a softmax over a single unit is always 1", "any")
    return None


def _log_probabilities(history: History) -> bool:
    return (history.fact("loss", "output_max") or 0.0) <= 1e-4


RULE = Rule(
    code="M03",
    slug="missing-output-activation",
    judge=judge,
    severity="critical",
    fixes=(Fix("Use the loss that takes raw scores (with logits)", "with logits"),),
    refute="What the loss is given lies strictly between 0 and 1.",
    **exact("setup", "end"),
)
