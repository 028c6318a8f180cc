"""P02 lr-too-low: the rate is so small that training hardly moves.

What it looks for: a copy that learns three times as much in 50 steps at ten times the rate, in a run that moves
little; updates below 1e-5 of the weights while the loss is where it began; or, where no loss can
tell (several networks, rewards), 200 steps that together can have moved the weights by 1 % at most.
Why it matters: the run ends before it has learned.
Usual causes: a rate in the wrong unit; a fine-tuning rate for training from scratch; a warm-up that never ends.
Known false alarms: fine-tuning that has arrived already: its loss is low.
Fix: multiply the rate by 10.
"""

from statistics import median

from fieldguide.doctor.facts import single
from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    ratios = history.series("update_ratio", 5)
    if len(ratios) < 3:
        return None
    ratio, fork = median(ratios), history.probes.get("lr_fork")
    if fork and ratio < 3e-3:
        here, faster = fork["start"] - fork["1"], fork["start"] - fork["10"]
        if faster > 3 * max(here, 0.005 * abs(fork["start"])) and faster > 0.02 * abs(fork["start"]):
            return Sign(
                f"in 50 steps a copy comes from {fork['start']:.3g} to {fork['1']:.3g}, and at ten times "
                f"the rate to {fork['10']:.3g}",
                "three times the progress",
            )
    if 0 < ratio < 1e-5 and history.step >= 20 and history.level > 0.9 * abs(history.start):
        return Sign(
            f"an update changes {ratio:.1g} of the weights and the loss is still {history.level:.3g}",
            "1e-5 of the weights",
        )
    poor = not history.baseline or history.best < 0 or history.level > 0.5 * history.baseline
    mute = not single(history) or (poor and not history.descending)
    if mute and history.step >= 200 and 0 < history.step * max(history.series("update_ratio")) < 0.01:
        return Sign(f"{history.step} steps of {ratio:.1g} of the weights can have moved them by 1 % at most", "1 %")
    return None


RULE = Rule(
    code="P02",
    slug="lr-too-low",
    judge=judge,
    on=frozenset({"sample", "probe"}),
    gated=False,
    fixes=(
        Fix("Multiply the learning rate by 10", "lr * 10"),
        Fix("Use AdamW, whose step does not depend on the gradient's size", "adam"),
    ),
    refute="At ten times the rate a copy learns no faster.",
)
