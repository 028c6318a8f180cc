"""M12 batchnorm-tiny-batch: batch normalisation over a handful of samples.

What it looks for: batch normalisation with fewer than 8 samples a batch, in a failing run or with an evaluation twice
as bad as training.
Why it matters: its statistics are noise.
Usual causes: a batch cut down for memory.
Known false alarms: convolutions over large images, which average over positions too: such runs learn.
Fix: larger batches, or group normalisation.
"""

from statistics import median

from fieldguide.doctor.facts import batch_size
from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    size = batch_size(history)
    if not history.fact("model", "has_batch_norm") or size is None or size >= 8:
        return None
    losses = [record["loss"] for record in history.evals[-3:] if "loss" in record]
    apart = bool(losses) and history.level > 0 and median(losses) > 2 * history.level
    if not history.failing and not apart and size > 2:
        return None
    return Sign(f"batch normalisation over batches of {size}", "8")


RULE = Rule(
    code="M12",
    slug="batchnorm-tiny-batch",
    judge=judge,
    on=frozenset({"sample", "eval", "end"}),
    gated=False,
    persistent=False,
    fixes=(Fix("Use larger batches or group normalisation", "batch * 8"),),
    refute="With running statistics in training the loss is the same.",
)
