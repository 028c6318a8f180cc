"""M14 capacity-too-small: the network cannot even learn one batch.

What it looks for: a run that stands still, where a copy without dropout brings a single batch only to above 30 % of
its first loss in a hundred steps.
Why it matters: no schedule or data can mend that.
Usual causes: too narrow a layer; a bottleneck; missing inputs.
Known false alarms: a broken loss or dead layers, which have findings of their own.
Fix: widen the narrowest layer.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    probe = history.probes.get("one_batch")
    if not probe or not history.failing or not probe["start"] > 0 or probe["end"] < 0.3 * probe["start"]:
        return None
    return Sign(
        f"a copy brings one batch from {probe['start']:.3g} to {probe['end']:.3g} in {probe['steps']:.0f} steps", "30 %"
    )


RULE = Rule(
    code="M14",
    slug="capacity-too-small",
    judge=judge,
    fixes=(Fix("Widen the narrowest layer", "widen"),),
    refute="A network of twice the width learns a batch no better.",
)
