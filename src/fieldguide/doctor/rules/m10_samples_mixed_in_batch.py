"""M10 samples-mixed-in-batch: the answer for one sample depends on the others.

What it looks for: in evaluation mode, outputs that change when another sample of the batch does.
Why it matters: what is learned does not hold for other batches.
Usual causes: view or reshape where a transpose was meant; a softmax or mean over the batch.
Known false alarms: graphs, contrastive losses and batch normalisation, which mix on purpose: only the output before
the loss is tested, and normalisation in eval mode does not mix.
Fix: transpose or permute instead of view.
"""

from fieldguide.doctor.facts import tested
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    test = tested(history, "batch_independence")
    return Sign(test["says"], "any", severity=None if history.failing else "warning") if test else None


RULE = Rule(
    code="M10",
    slug="samples-mixed-in-batch",
    judge=judge,
    severity="critical",
    fixes=(Fix("Use transpose or permute where axes change places"),),
    refute="Outputs of one sample are the same in every batch.",
    **exact("setup"),
)
