"""D09 train-val-leakage: validation samples are in the training part.

What it looks for: more than 1 % of the evaluated inputs that training has seen too, bit for bit, and more than repeat
in training itself.
Why it matters: the validation figures measure memory, and overfitting cannot be seen.
Usual causes: a split after augmentation or oversampling; several rows of one person or document; the wrong loader.
Known false alarms: inputs of few possible values, and an evaluation of the whole training part on purpose: both are
left out.
Fix: split first, by group; remove duplicates.
"""

from fieldguide.doctor.facts import continuous_input
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    facts = history.setup.get("eval_inputs", {})
    share, natural = facts.get("duplicates", 0.0), history.fact("inputs", "duplicates") or 0.0
    text = "int" in facts.get("dtype", "") and len(facts.get("shape", [])) == 2 and facts["shape"][1] >= 8
    if not (text or continuous_input(history, "eval_inputs")) or facts.get("covered", 0.0) > 0.9:
        return None
    if share <= max(0.01, 3 * natural) or facts.get("samples", 0) * share < 3:
        return None
    return Sign(f"{share:.1%} of the {facts['samples']} evaluated inputs are also in the training part", "1 %")


RULE = Rule(
    code="D09",
    slug="train-val-leakage",
    judge=judge,
    fixes=(Fix("Split before everything else, by group, and remove duplicates"),),
    refute="A set of the hashes of the training inputs has none of the validation inputs'.",
    **exact("setup", "eval", "end"),
)
