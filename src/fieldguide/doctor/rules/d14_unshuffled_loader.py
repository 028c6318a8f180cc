"""D14 unshuffled-loader: the samples come sorted by class.

What it looks for: labels in far fewer runs than chance gives (z above 6), and batches that are mostly one class.
Why it matters: every few steps the network unlearns the other classes for the one it sees.
Usual causes: a folder or file sorted by class, and a loader without shuffle=True.
Known false alarms: samplers that put several of each class into a batch, and data in random order: their batches are
mixed; games of two networks, whose batches are all real or all made, are left out.
Fix: shuffle=True.
"""

from fieldguide.doctor.facts import single
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    z, pure = history.fact("loader", "order_z") or 0.0, history.fact("loader", "batch_purity") or 0.0
    counts: dict[str, int] = history.fact("targets", "classes") or {}
    if z <= 6 or len(counts) < 2 or not single(history) or (history.fact("loader", "batch_size") or 8) < 4:
        return None
    usual = max(counts.values()) / sum(counts.values())
    if pure < usual + 0.6 * (1 - usual):
        return None
    return Sign(
        f"labels come in runs (z = {z:.0f}): {pure:.0%} of a batch is one class, {usual:.0%} of all samples", "6"
    )


RULE = Rule(
    code="D14",
    slug="unshuffled-loader",
    judge=judge,
    fixes=(Fix("DataLoader(…, shuffle=True)", "shuffle"),),
    refute="The classes of consecutive samples are independent.",
    **exact("setup", "sample"),
)
