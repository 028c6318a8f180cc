"""D07 shuffled-labels: inputs and labels do not belong together.

What it looks for: the training loss falls well below the constant answer's while validation has never been better
than it; or real labels are learned no faster than permuted ones; or a failing run whose nearest neighbours agree no
more often than by chance.
Why it matters: the network can only learn by heart.
Usual causes: inputs sorted or shuffled without their labels; a join on the wrong key; heavy label noise.
Known false alarms: tasks without neighbours (parity, text) that fail for another reason: the permutation probe tells
them apart.
Fix: look at ten pairs; shuffle indices, never one of the two.
"""

from fieldguide.doctor.facts import stuck, tested, useless
from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    probe, baseline = history.probes.get("label_permutation"), history.baseline or 0.0
    # Below 70 % is beyond what the shares of the targets give; below 5 % both were learned by heart, and neither tells.
    tells = probe and 0 < probe["permuted"] < 0.7 * baseline and probe["real"] > 0.9 * probe["permuted"]
    if probe and tells and (useless(history) or (stuck(history) and probe["permuted"] > 0.05 * baseline)):
        return Sign(f"real labels are learned to {probe['real']:.3g}, permuted ones to {probe['permuted']:.3g}", "90 %")
    sign = _by_heart(history)
    if sign:
        return sign
    chance = tested(history, "label_agreement")
    return (
        Sign(f"{chance['says']}, and {stuck(history)}", "2 deviations from chance")
        if chance and stuck(history)
        else None
    )


def _by_heart(history: History) -> Sign | None:
    own = history.baseline
    if not own or history.level > 0.8 * own or not useless(history, 3):
        return None
    best, constant = min(history.compared)
    return Sign(
        f"training has reached {history.level:.3g}, but the best validation loss, {best:.3g}, is no better than "
        f"a constant answer's {constant:.3g}",
        "99 % of a constant answer's",
    )


RULE = Rule(
    code="D07",
    slug="shuffled-labels",
    judge=judge,
    on=frozenset({"sample", "eval", "probe"}),
    gated=False,
    severity="critical",
    fixes=(Fix("Check the pairing of inputs and labels by eye, from the file to the batch"),),
    refute="A copy trained for 200 steps learns the real labels faster than permuted ones.",
)
