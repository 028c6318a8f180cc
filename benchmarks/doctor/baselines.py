"""What other systems would say by their published default rules, written from their descriptions, on our recordings.

Each rule is a function of a history that tells whether it ever fired. Norms stand in for means of absolute values
where only those were recorded. Sources: the default configurations of Amazon SageMaker Debugger (SMD), AUTOTRAINER
(AT), UMLAUT (UM), DeepDiagnosis (DD), TheDeepChecker (TDC) and torchmortem (TM).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from statistics import median

from fieldguide.doctor.history import History

Baseline = Callable[[History], bool]
SYSTEMS: dict[str, list[Baseline]] = {name: [] for name in ("SMD", "AT", "UM", "DD", "TDC", "TM")}


def of(system: str) -> Callable[[Baseline], Baseline]:
    def enter(rule: Baseline) -> Baseline:
        SYSTEMS[system].append(rule)
        return rule

    return enter


def layers(history: History, name: str) -> Iterator[list[float]]:
    for sample in history.samples:
        values = [signs[name] for signs in sample.get("layers", {}).values() if name in signs]
        if values:
            yield values


def train_and_val(history: History) -> Iterator[tuple[float, float]]:
    losses = {record["step"]: record["loss"] for record in history.steps}
    for record in history.evals:
        recent = [losses[step] for step in range(record["step"] - 9, record["step"] + 1) if step in losses]
        if recent and "loss" in record:
            yield median(recent), record["loss"]


@of("SMD")
def loss_not_decreasing(history: History) -> bool:
    losses = history.losses
    return any(after >= before for before, after in zip(losses, losses[10:], strict=False))


@of("SMD")
@of("DD")
def gradient_below_1e_7(history: History) -> bool:
    return any(min(values) < 1e-7 for values in layers(history, "grad"))


@of("SMD")
def overfit_by_a_tenth(history: History) -> bool:
    return any((val - train) / train > 0.1 for train, val in train_and_val(history) if train > 0)


@of("SMD")
@of("TM")
@of("TDC")
def half_of_a_layer_dead(history: History) -> bool:
    return any(max(values) > 0.5 for values in layers(history, "dead"))


@of("SMD")
@of("AT")
@of("DD")
@of("TDC")
def not_finite(history: History) -> bool:
    return any(not math.isfinite(loss) for loss in history.losses)


@of("AT")
def first_layer_vanishes(history: History) -> bool:
    return any(v[0] < 1e-4 and v[0] < 1e-3 * v[-1] for v in layers(history, "grad"))


@of("AT")
def first_layer_explodes(history: History) -> bool:
    return any(v[0] > 70 * v[-1] for v in layers(history, "grad") if v[-1] > 0)


@of("AT")
def accuracy_swings(history: History) -> bool:
    scores = [record["accuracy"] for record in history.evals if "accuracy" in record]
    swings = [
        abs(b - a) >= 0.03 and (b - a) * (c - b) < 0 for a, b, c in zip(scores, scores[1:], scores[2:], strict=False)
    ]
    return sum(swings) >= 0.2 * len(scores) > 0


@of("AT")
def slow_convergence(history: History) -> bool:
    scores = [record["accuracy"] for record in history.evals if "accuracy" in record]
    late = scores[math.ceil(0.3 * len(scores)) :]
    return any(b - a < 0.01 and b < 0.6 for a, b in itertools.pairwise(late))


@of("UM")
@of("DD")
def input_outside_one(history: History) -> bool:
    low, high = history.fact("inputs", "min"), history.fact("inputs", "max")
    return low is not None and (low < -1 or high > 1)


@of("UM")
def rate_outside(history: History) -> bool:
    return any(rate > 0.01 or rate < 1e-7 for rate in history.series("lr"))


@of("UM")
def accuracy_above_95(history: History) -> bool:
    return any(record.get("accuracy", 0) > 0.95 for record in history.evals)


@of("UM")
def overfit_for_one_epoch(history: History) -> bool:
    pairs = list(train_and_val(history))
    return any(d > b and c < a for (a, b), (c, d) in itertools.pairwise(pairs))


@of("DD")
def half_of_a_layer_saturated(history: History) -> bool:
    return any(max(values) > 0.5 for values in layers(history, "saturated"))


@of("TDC")
def gradient_below_1e_6(history: History) -> bool:
    return any(min(values) < 1e-6 for values in layers(history, "grad"))


@of("TDC")
def update_ratio_outside(history: History) -> bool:
    return any(value and not -4 <= math.log10(value) <= -1 for values in layers(history, "update") for value in values)


@of("TDC")
def loss_falls_less_than_a_twentieth(history: History) -> bool:
    levels = history.levels[::5]
    return any(after > 0.95 * before for before, after in itertools.pairwise(levels))


@of("TM")
def median_update_ratio_outside(history: History) -> bool:
    ratios = history.series("update_ratio")
    return bool(ratios) and not 1e-5 <= median(ratios) <= 1e-1


@of("TM")
def layer_gradients_differ_a_hundredfold(history: History) -> bool:
    return any(max(values) > 100 * min(values) for values in layers(history, "grad") if min(values) > 0)
