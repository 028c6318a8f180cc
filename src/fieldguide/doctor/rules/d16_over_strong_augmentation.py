"""D16 over-strong-augmentation: the training samples are changed beyond recognition.

What it looks for: a failing run whose loss on unchanged samples is less than half of the training loss, without
strong dropout.
Why it matters: the network learns from pictures that no longer show their label.
Usual causes: a crop, erasing or noise with too large a range.
Known false alarms: dropout, mixup and label smoothing raise the training loss too: such runs learn and are not named.
Fix: weaken the augmentation until the training loss falls.
"""

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    losses = [record["loss"] for record in history.evals if "loss" in record and not record.get("training")]
    dropout = max((layer.get("p", 0.0) for layer in history.setup.get("layers", [])), default=0.0)
    if not losses or dropout >= 0.5 or not 0 <= losses[-1] < 0.5 * history.level:
        return None
    return Sign(f"the loss is {history.level:.3g} in training and {losses[-1]:.3g} on unchanged samples", "half")


RULE = Rule(
    code="D16",
    slug="over-strong-augmentation",
    judge=judge,
    fixes=(Fix("Halve the range of every augmentation"),),
    refute="Without augmentation the training loss falls no faster.",
)
