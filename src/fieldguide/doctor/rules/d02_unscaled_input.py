"""D02 unscaled-input: the inputs are far larger than the initial weights are made for, or their features differ
wildly.

What it looks for: in a failing run, inputs beyond 20 or features whose deviations differ by more than a factor of
100; in any run, inputs of more than 100 together with a first loss five times what random weights should give, or in a
game of several networks, whose losses cannot tell.
Why it matters: activations saturate or explode, and no one learning rate suits all features.
Usual causes: raw pixels or physical units; a scaler that was fitted and not applied.
Known false alarms: counts and one-hot columns, and networks that begin with a normalisation: all of them train, and
are not named.
Fix: subtract the training part's mean and divide by its standard deviation.
"""

from fieldguide.doctor.facts import first_loss, single
from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    facts = history.setup.get("inputs", {})
    if "float" not in facts.get("dtype", "") or "max" not in facts:
        return None
    largest, ratio = max(abs(facts["min"]), abs(facts["max"])), facts.get("feature_std_ratio", 1.0)
    expected, start = history.fact("loss", "expected") or history.baseline, first_loss(history)
    if largest > 100 and expected and start > 5 * expected:
        return Sign(
            f"inputs reach {largest:.3g} and the first loss of {start:.3g} should be near {expected:.3g}", "100"
        )
    if not history.failing and (single(history) or largest < 100):
        return None
    if largest > 20:
        return Sign(f"inputs reach {largest:.3g} (mean {facts['mean']:.3g}, deviation {facts['std']:.3g})", "20")
    if ratio > 100:
        return Sign(f"the deviations of the features differ by a factor of {ratio:.3g}", "100")
    return None


RULE = Rule(
    code="D02",
    slug="unscaled-input",
    judge=judge,
    gated=False,
    fixes=(Fix("Standardise the inputs with the mean and deviation of the training part", "standardise inputs"),),
    refute="With standardised inputs the first 50 steps go no better.",
)
