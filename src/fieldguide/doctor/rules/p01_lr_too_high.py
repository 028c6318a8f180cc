"""P01 lr-too-high: each step is so long that the loss goes up.

What it looks for: a failing run whose updates are above 3 % of the weights, or point against one another (cosine
below −0.3), or whose loss has left where it was by far; first steps that change a third of the weights, or double
them, in a run that has not recovered.
Why it matters: no later step can mend what the last one broke.
Usual causes: a rate copied from another optimizer or batch size; no warm-up; a sum where a mean was meant.
Known false alarms: the first 20 steps of a large rate that settles (catapult), which is why it has to last.
Fix: divide the rate by 3 to 10, or warm it up.
"""

import math
from statistics import median

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    ratios = [ratio for ratio in history.series("update_ratio") if math.isfinite(ratio)][-5:]
    cosines = history.series("update_cosine", 5)
    if not ratios or history.step < 5:
        return None
    ratio, early = median(ratios), history.series("update_ratio")[:5]
    if len(early) == 5 and median(early) > 0.3 and history.level > 0.25 * _reference(history):
        return Sign(f"the first updates change {median(early):.2g} of all weights", "0.3 in the first 5 steps")
    grown = _overthrown(history)
    if grown and history.level > 0.25 * _reference(history):
        return Sign(*grown)
    if not history.failing:
        return None
    if ratio > 0.03:
        return Sign(
            f"an update changes {ratio:.2g} of the weights and {history.failing}",
            "3 % of the weights",
            severity="critical",
        )
    fork = history.probes.get("lr_fork")
    if fork and fork["0.1"] < fork["1"] - 0.1 * abs(fork["start"]) and ratio > 1e-3:
        return Sign(
            f"in 50 steps a copy comes from {fork['start']:.3g} to {fork['1']:.3g}, at a tenth of the "
            f"rate to {fork['0.1']:.3g}",
            "a tenth of the loss",
        )
    if len(cosines) >= 3 and median(cosines) < -0.3 and ratio > 1e-3:
        return Sign(
            f"an update undoes the one before (cosine {median(cosines):.2f}) and {history.failing}", "cosine below -0.3"
        )
    if history.level > 3 * abs(history.start) and ratio > 1e-3:
        return Sign(
            f"the loss went from {history.start:.3g} to {history.level:.3g} with updates of {ratio:.2g}",
            "3 times the first loss",
        )
    return None


def _overthrown(history: History) -> tuple[str, str] | None:
    """The weights doubled within 20 steps, and the loss rose."""
    early = [sample for sample in history.samples if sample["step"] <= 20 and "weight_norm" in sample]
    first, losses = early[0]["weight_norm"] if early else 0.0, history.finite[:20]
    if not first or early[0]["step"] != 1 or max(sample["weight_norm"] for sample in early) < 2 * first:
        return None
    if max(losses, default=0.0) < 1.5 * abs(history.losses[0]):
        return None
    norm = max(sample["weight_norm"] for sample in early)
    return (
        f"in 20 steps the weights grew from {first:.3g} to {norm:.3g} and the loss rose from {history.losses[0]:.3g} "
        f"to {max(losses):.3g}",
        "twice the weights",
    )


def _reference(history: History) -> float:
    """What the loss should be below soon: the first one, or a constant answer's."""
    first = abs(history.losses[0])
    return min(first, history.baseline) if history.baseline and history.baseline > 0 else first


RULE = Rule(
    code="P01",
    slug="lr-too-high",
    judge=judge,
    gated=False,
    fixes=(
        Fix("Divide the learning rate by 3 to 10", "lr / 10"),
        Fix("Warm the rate up over the first steps", "warm up"),
    ),
    refute="At a tenth of the rate the loss goes up as well.",
)
