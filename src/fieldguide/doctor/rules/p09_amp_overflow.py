"""P09 amp-overflow: the gradient scaler skips steps again and again.

What it looks for: more than 5 % of the steps skipped after the first 50.
Why it matters: skipped steps are lost, and the scale never settles.
Usual causes: activations or losses beyond the range of 16 bits; a scaler with too fast a growth.
Known false alarms: the first dozen steps, in which the scale is found.
Fix: bfloat16, or 32 bits for the part that overflows.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    skipped = [
        (sample["step"], sample["skipped"])
        for sample in history.samples
        if "skipped" in sample and sample["step"] >= 50
    ]
    if len(skipped) < 2:
        return None
    (start, before), (now, after) = skipped[0], skipped[-1]
    share = (after - before) / max(1, now - start + after - before)
    return (
        Sign(f"{after - before} of {now - start + after - before} steps were skipped", "5 %") if share > 0.05 else None
    )


RULE = Rule(
    code="P09",
    slug="amp-overflow",
    judge=judge,
    gated=False,
    fixes=(Fix("Use bfloat16, or compute the overflowing part in 32 bits", "bf16"),),
    refute="The scale stays the same for 1,000 steps.",
)
