"""M12 batchnorm-tiny-batch: batch normalisation over a handful of samples.

What it looks for: batch normalisation with fewer than 8 samples a batch, in a failing run or with an evaluation twice
as bad as training; with 1 or 2 small samples in any run.
Why it matters: its statistics are noise.
Usual causes: a batch cut down for memory.
Known false alarms: convolutions over large images, which average over many positions too; layers that keep their
statistics, as fine-tuned detectors have them. Neither is named in a run that learns.
Fix: larger batches, or group normalisation.
"""

from math import prod
from statistics import median

from fieldguide.doctor.facts import batch_size
from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History

SMALL = 64 * 64  # positions of an image


def judge(history: History) -> Sign | None:
    size = batch_size(history)
    frozen = history.fact("model", "batch_statistics") is False
    if not history.fact("model", "has_batch_norm") or frozen or size is None or size >= 8:
        return None
    losses = [record["loss"] for record in history.evals[-3:] if "loss" in record]
    apart = bool(losses) and history.level > 0 and median(losses) > 2 * history.level
    positions = prod((history.fact("inputs", "shape") or [])[2:])
    if not history.failing and not apart and (size > 2 or positions > SMALL):
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
