"""M13 train-eval-mismatch: training and evaluation run in the wrong mode, or disagree.

What it looks for: an evaluation in training mode, or training in evaluation mode, of a network with dropout or batch
normalisation; or the same batches several times worse in evaluation mode.
Why it matters: dropout makes results random and statistics come from the wrong place.
Usual causes: model.eval() forgotten before validation, model.train() after it; running statistics with too small a
momentum.
Known false alarms: Monte-Carlo dropout on purpose.
Fix: model.eval() before evaluating and model.train() after.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    modes = history.fact("model", "has_dropout") or history.fact("model", "has_batch_norm")
    if not modes:
        return None
    if history.evals and all(record.get("training") for record in history.evals[-2:]):
        return Sign("evaluations run in training mode, with dropout or batch normalisation active", "any")
    recent = [sample["training"] for sample in history.samples[-3:] if "training" in sample]
    if len(recent) == 3 and not any(recent):
        return Sign("training runs in evaluation mode: dropout and batch statistics are off", "3 samples")
    probe = history.probes.get("train_eval")
    if probe and probe["eval"] > 2 * probe["train"] > 0 and probe["eval"] > 0.5 * (history.baseline or 0):
        return Sign(
            f"the same batches cost {probe['train']:.3g} in training mode and {probe['eval']:.3g} in evaluation mode",
            "twice",
        )
    return None


RULE = Rule(
    code="M13",
    slug="train-eval-mismatch",
    judge=judge,
    on=frozenset({"sample", "eval", "probe", "end"}),
    gated=False,
    persistent=False,
    fixes=(Fix("Call model.eval() before evaluating and model.train() after", "modes"),),
    refute="Evaluations in both modes agree.",
)
