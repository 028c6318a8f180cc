"""Questions that several rules ask of the facts about a training. Plain numbers, no torch."""

import math
from collections.abc import Sequence
from math import prod

from fieldguide.doctor.history import History

CLASSES = frozenset({"cross_entropy", "nll_loss"})
BINARY = frozenset({"binary_cross_entropy", "binary_cross_entropy_with_logits"})
REGRESSION = frozenset({"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})
_RECURRENT = frozenset({"RNN", "LSTM", "GRU"})


def loss_name(history: History) -> str:
    """Of the loss, as ``torch.nn.functional`` calls it; empty where it is not known."""
    return history.fact("loss", "name") or ""


def made_by(history: History) -> str:
    """The operation that made the loss's input, in small letters; empty where it is not known."""
    return (history.fact("loss", "made_by") or "").lower()


def first_loss(history: History) -> float:
    """The loss of the first batches that backward was called on; NaN where none was seen."""
    return history.start if history.finite else (history.fact("loss", "value") or math.nan)


def newest_loss(history: History) -> float | None:
    return history.losses[-1] if history.losses else history.fact("loss", "value")


def outputs(history: History) -> int:
    """Classes that a loss over class numbers has scores for; 0 where it is another loss."""
    shape = history.fact("loss", "output_shape") or []
    return shape[min(1, len(shape) - 1)] if shape and loss_name(history) in CLASSES else 0


def one_label_each(history: History) -> bool:
    """Every sample has one target: no sequence, image or several labels."""
    shape = history.fact("loss", "target_shape") or []
    inputs = history.fact("inputs", "shape") or shape
    return shape[1:] in ([], [1]) and shape[0] <= inputs[0] if shape else False


def continuous_input(history: History, part: str = "inputs") -> bool:
    """The input is measured, not counted or looked up: floating point and not only whole numbers."""
    facts = history.setup.get(part, {})
    return "float" in facts.get("dtype", "") and not facts.get("whole", False)


def weights(history: History) -> list[tuple[str, list[int]]]:
    """Layer and shape of every trained weight matrix or kernel, in the order in which the layers are called."""
    tensors = history.setup.get("tensors", {}).values()
    order = {layer["name"]: number for number, layer in enumerate(history.setup.get("layers", []))}
    kinds = {layer["name"]: layer.get("type", "") for layer in history.setup.get("layers", [])}
    found = [
        (facts["layer"], facts["shape"])
        for facts in tensors
        if len(facts.get("shape", [])) >= 2
        and facts.get("trainable", True)
        and kinds.get(facts.get("layer", ""), "").startswith(("Linear", "Conv"))
    ]
    return sorted(found, key=lambda pair: order[pair[0]])


def head_width(history: History) -> int:
    """Output units of the last layer that has trained weights; 0 where it is not known."""
    found = weights(history)
    return found[-1][1][0] if found else 0


def recurrent(history: History) -> bool:
    return any(layer.get("type") in _RECURRENT for layer in history.setup.get("layers", []))


def size(facts: dict) -> int:
    return prod(facts.get("shape", []))


def batch_size(history: History) -> int | None:
    shape = history.fact("inputs", "shape")
    return history.fact("loader", "batch_size") or (shape[0] if shape else None)


def passes(history: History) -> float | None:
    """How often the training has seen its data; None where the size of a batch or of the data is not known."""
    whole, size = history.fact("loader", "dataset_size"), batch_size(history)
    backwards = history.series("backwards", 1) or [1.0]
    return history.step * size * backwards[0] / whole if whole and size else None


def single(history: History) -> bool:
    """One network trained by one optimizer: no game between several, no turns."""
    return not history.intent.gan and (history.fact("model", "models") or 1) == 1


def stuck(history: History) -> str | None:
    """Why nothing is learned: the run is failing, or after 50 steps is still no better than a constant answer."""
    if history.failing:
        return history.failing
    baseline = history.baseline
    if baseline and baseline > 0 and len(history.losses) >= 50 and history.level > 0.95 * baseline:
        return f"the loss of {history.level:.3g} is no better than a constant answer's {baseline:.3g}"
    return None


def useless(history: History, least: int = 2) -> bool:
    """There are so many evaluations, and none was better than a constant answer."""
    return len(history.compared) >= least and min(loss / constant for loss, constant in history.compared) > 0.99


def tested(history: History, name: str) -> dict:
    """A pre-flight test that failed; empty when it passed or was not done."""
    test = history.setup.get("tests", {}).get(name, {})
    return test if test.get("ok") is False else {}


def error(history: History) -> str:
    """What the script crashed with; empty when it did not."""
    return (history.end or {}).get("error") or ""


def listing(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
