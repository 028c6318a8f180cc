"""P05 scheduler-collapse: the learning rate is gone before the training is.

What it looks for: a rate below 1 % of its highest while the run goes on at least as long again, and a loss that has
stopped falling.
Why it matters: the steps that follow change nothing.
Usual causes: a schedule by the epoch stepped with every batch; its total computed from the wrong length.
Known false alarms: the end of any decaying schedule, which is why the flat part must be as long as all before it.
Fix: step the schedule where its unit says, over the steps that there are.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    rates = [(sample["step"], sample["lr"]) for sample in history.samples if "lr" in sample]
    if not rates:
        return None
    top = max(rate for _, rate in rates)
    gone = next((step for step, rate in rates if rate < 0.01 * top and step > 1), None)
    if gone is None or rates[-1][1] >= 0.01 * top or history.step < 2 * gone:
        return None
    return Sign(
        f"the learning rate fell from {top:.2g} to {rates[-1][1]:.2g} by step {gone} and the run is at "
        f"step {history.step}",
        "below 1 % of the highest rate for at least half of the run",
    )


RULE = Rule(
    code="P05",
    slug="scheduler-collapse",
    judge=judge,
    gated=False,
    severity="critical",
    fixes=(Fix("Step the scheduler once per epoch, or give it the number of optimizer steps", "lr constant"),),
    refute="With a constant rate the loss falls no further either.",
)
