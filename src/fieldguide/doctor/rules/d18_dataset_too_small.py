"""D18 dataset-too-small: there are too few samples for this network to learn anything but them.

What it looks for: a run that overfits, with ten parameters or more for every sample and fewer than 50 samples for
every answer.
Why it matters: more training makes it worse.
Usual causes: a sub-set from debugging that stayed; a problem for a smaller or a pretrained network.
Known false alarms: a small set that does not overfit is not named.
Fix: more data, augmentation, a pretrained network, or a much smaller one.
"""

import math

from fieldguide.doctor.facts import outputs
from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    samples, parameters = history.fact("loader", "dataset_size"), history.fact("model", "trainable")
    losses = [record["loss"] for record in history.evals if "loss" in record]
    if not samples or not parameters or len(losses) < 4:
        return None
    now, gap = min(losses[-3:]), 0.2 * (history.baseline or math.inf)
    risen = now > 1.1 * min(losses) and history.level < 0.5 * losses[-1]
    overfits = risen or (history.level < 0.1 * now and now - history.level > gap)
    if not overfits or parameters < 10 * samples or samples / max(1, outputs(history)) >= 50:
        return None
    return Sign(
        f"{samples} samples for {parameters} parameters: validation is at {losses[-1]:.3g} (best {min(losses):.3g}) "
        f"while training fell to {history.level:.3g}",
        "10 parameters for each sample",
    )


RULE = Rule(
    code="D18",
    slug="dataset-too-small",
    judge=judge,
    on=frozenset({"eval"}),
    gated=False,
    persistent=False,
    fixes=(
        Fix("Get more data, augment, or begin from a pretrained network"),
        Fix("Stop at the best validation", "early stop"),
    ),
    refute="With twice the samples the gap stays as it is.",
)
