"""Rough ranges that settings usually lie in: advice about a recipe or an observed run, and never an alarm.

The ranges are wide on purpose, so that fine-tuning (rates of 2e-5) passes too: what lies outside is worth a second
look and no more. That ``d_model`` is a multiple of ``num_heads`` is no guideline: where an architecture needs it,
its network cannot be made otherwise; those with a head width of their own (T5 v1.1 small: 512 over 6) do without.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Guideline:
    """``setting`` of ``where`` usually lies between ``low`` and ``high``."""

    setting: str
    where: str
    low: int | float
    high: int | float
    because: str


GUIDELINES = (
    Guideline("learning rate", "SGD", 1e-3, 0.5, "0.1 with momentum is where most start"),
    Guideline("learning rate", "Adam", 1e-5, 1e-2, "1e-4 to 1e-3 from random weights, 2e-5 to 5e-5 for trained ones"),
    Guideline("learning rate", "AdamW", 1e-5, 1e-2, "about 1e-3 from random weights, 2e-5 to 5e-5 for trained ones"),
    Guideline("learning rate", "RMSprop", 1e-5, 1e-2, "about 1e-3"),
    Guideline("weight decay", "AdamW", 1e-3, 0.3, "0.01 to 0.1, decoupled from the rate's adaptation"),
    Guideline("weight decay", "SGD", 1e-5, 1e-2, "1e-4 to 1e-2"),
    Guideline("batch", "a training", 8, 4096, "16 to 64 on a CPU, 128 to 512 on a GPU, 1,024 to 4,096 on several"),
    Guideline("batch", "a CPU", 8, 1024, "16 to 64"),
    Guideline("batch", "a GPU", 8, 4096, "128 to 512, and 1,024 to 4,096 over several"),
    Guideline("dropout", "dense layers", 0.0, 0.5, "0.2 to 0.5"),
    Guideline("dropout", "convolutional layers", 0.0, 0.3, "0.1 to 0.3"),
    Guideline("dropout", "recurrent layers", 0.0, 0.5, "0.1 to 0.5"),
    Guideline("depth", "convolutional networks", 1, 152, "16 to 152 layers"),
    Guideline("depth", "transformers", 1, 48, "6 to 24 layers"),
    Guideline("depth", "multilayer perceptrons", 1, 10, "2 to 10 layers"),
    Guideline("heads", "attention over up to 512 channels", 1, 16, "4 to 8"),
    Guideline("heads", "attention over more than 512 channels", 8, 64, "12 to 32"),
)

_DROPOUT = {"Dropout": "dense layers"} | dict.fromkeys(("RNN", "LSTM", "GRU"), "recurrent layers")


def advice(setup: Mapping[str, Any]) -> list[str]:
    """A sentence on every setting outside its range, from the facts of ``records.Setup``; zero is always a choice."""
    ranges = {(row.setting, row.where): row for row in GUIDELINES}
    said = []
    for setting, where, value in _settings(setup):
        row = ranges.get((setting, where))
        if row is not None and value and not row.low <= value <= row.high:
            said.append(f"{setting} {value:g} for {where}: usual is {row.because}")
    return list(dict.fromkeys(said))


def of_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that a recipe states, as ``advice`` reads them."""
    optimizer = recipe.get("optimizer", {})
    named = {row.where.lower(): row.where for row in GUIDELINES}
    own = {"lr": optimizer.get("lr"), "weight_decay": optimizer.get("weight_decay")}
    facts = {name: value for name, value in own.items() if isinstance(value, int | float)}
    kind = named.get(str(optimizer.get("name", "adamw")).lower(), "")
    batch = {"batch_size": recipe["batch_size"]} if isinstance(recipe.get("batch_size"), int) else {}
    return {"optimizers": [{"type": kind, **facts}], "loader": batch}


def _settings(setup: Mapping[str, Any]) -> Iterator[tuple[str, str, int | float]]:
    for optimizer in setup.get("optimizers", []):
        for setting, name in (("learning rate", "lr"), ("weight decay", "weight_decay")):
            yield setting, optimizer.get("type", ""), optimizer.get(name, 0)
    model = setup.get("model", {})
    machine = {"cpu": "a CPU", "cuda": "a GPU"}.get(model.get("device", ""), "a training")
    yield "batch", machine, setup.get("loader", {}).get("batch_size", 0)
    layers = setup.get("layers", [])
    for layer in layers:
        if "p" in layer:
            yield "dropout", _DROPOUT.get(layer.get("type", ""), "convolutional layers"), layer["p"]
    for width, heads in model.get("attention", []):
        yield "heads", f"attention over {'up to' if width <= 512 else 'more than'} 512 channels", heads
    kinds = [layer.get("type", "") for layer in layers]
    convolutions = sum(kind.startswith("Conv") for kind in kinds)
    linear = sum(kind == "Linear" for kind in kinds)
    if model.get("attention"):
        yield "depth", "transformers", len(model["attention"])
    elif convolutions:
        yield "depth", "convolutional networks", convolutions + linear
    elif linear and not any("Embedding" in kind or "LayerNorm" in kind or "Attention" in kind for kind in kinds):
        yield "depth", "multilayer perceptrons", linear
