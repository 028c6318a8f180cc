"""P17 stopped-too-early: the run ended while it was still getting better.

What it looks for: a run whose last quarter brought at least 15 % of all its progress, with more than half of the
first loss left; one of fewer than 100 steps that ends near a constant answer, or at half of it while still falling.
Of a run that has not seen its data once, or of fewer than 30 steps where that is not known, it is advice: a trial.
Why it matters: a few more passes are the cheapest gain there is.
Usual causes: too few epochs; a schedule for fewer steps.
Known false alarms: short runs on purpose, over one or two passes.
Fix: train longer.
"""

from statistics import median

from fieldguide.doctor.facts import error, passes
from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    losses = history.finite
    if len(losses) < len(history.losses) or error(history):
        return None
    seen = passes(history)
    trial = "info" if (len(losses) < 30 if seen is None else seen < 0.9) else None
    share = history.level / history.baseline if history.baseline else 0.0
    falling = len(losses) >= 20 and history.descending
    if 0 < len(losses) < 100 and share > (0.5 if falling else 0.95):
        return Sign(
            f"after {len(losses)} steps the loss is {history.level:.3g}, a constant answer's {history.baseline:.3g}",
            "100 steps",
            trial,
        )
    if len(losses) < 8 or (len(losses) >= 20 and not history.descending) or history.level < 0.5 * abs(history.start):
        return None
    quarter = max(2, len(losses) // 4)
    before, now = median(losses[-2 * quarter : -quarter]), median(losses[-quarter:])
    gained = (before - now) / max(1e-12, losses[0] - now) if losses[0] > now else 0.0
    if gained < 0.15:
        return None
    return Sign(
        f"the last quarter of {history.step} steps brought {gained:.0%} of the progress, from "
        f"{before:.3g} to {now:.3g}",
        "15 %",
        trial,
    )


RULE = Rule(
    code="P17",
    slug="stopped-too-early",
    judge=judge,
    on=frozenset({"end"}),
    gated=False,
    persistent=False,
    fixes=(Fix("Train longer", "steps * 3"),),
    refute="The loss goes no lower in as many steps again.",
)
