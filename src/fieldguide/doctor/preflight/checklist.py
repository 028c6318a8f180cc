"""The ten points to check before a training: what is known of each at the first step, as plain values."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from fieldguide.doctor.finding import Finding
from fieldguide.doctor.history import History


@dataclass(frozen=True)
class Point:
    title: str
    ok: bool | None
    """None: it cannot be told before the training."""
    evidence: str


def checklist(history: History, findings: Collection[Finding]) -> list[Point]:
    """Every point with the facts it rests on, and with what was found against it."""
    points = []
    for title, codes, facts in POINTS:
        against = [found for found in findings if found.rule in codes or found.rule[0] in codes]
        known = facts(history.setup)
        evidence = "; ".join([f"{found.slug}: {found.evidence}" for found in against] or [known])
        points.append(
            Point(title, False if against else True if known else None, evidence or "told during the training")
        )
    return points


def _data(setup: dict[str, Any]) -> str:
    parts = [
        f"{name} {facts['shape']} {facts['dtype']}, {facts.get('min', 0):.3g} to {facts.get('max', 0):.3g}"
        for name in ("inputs", "targets")
        if "dtype" in (facts := setup.get(name, {}))
    ]
    return "; ".join(parts)


def _model(setup: dict[str, Any]) -> str:
    model, loss = setup.get("model", {}), setup.get("loss", {})
    shape = f", output {loss['output_shape']}" if "output_shape" in loss else ""
    return f"{model['type']}, {model['parameters']:,} parameters{shape}" if "parameters" in model else ""


def _loss(setup: dict[str, Any]) -> str:
    loss = setup.get("loss", {})
    expected = loss.get("expected") or loss.get("baseline")
    beside = f", random answers cost about {expected:.3g}" if expected else ""
    return f"{loss['name']}, {loss['value']:.3g} on the first batch{beside}" if "value" in loss else ""


def _optimizer(setup: dict[str, Any]) -> str:
    return "; ".join(
        f"{facts['type']} of {facts.get('parameters', 0):,} parameters, rate {facts.get('lr', 0):g}"
        for facts in setup.get("optimizers", [])
    )


def _regularization(setup: dict[str, Any]) -> str:
    drops = sorted({layer["p"] for layer in setup.get("layers", []) if "p" in layer})
    decays = sorted({facts.get("weight_decay", 0.0) for facts in setup.get("optimizers", [])})
    dropout = f"dropout {', '.join(f'{p:g}' for p in drops)}" if drops else "no dropout"
    return f"{dropout}, weight decay {', '.join(f'{decay:g}' for decay in decays)}" if decays else ""


def _initial(setup: dict[str, Any]) -> str:
    spreads = [facts["std"] for facts in setup.get("tensors", {}).values() if "std" in facts]
    return f"deviations of {len(spreads)} weights from {min(spreads):.2g} to {max(spreads):.2g}" if spreads else ""


def _flow(setup: dict[str, Any]) -> str:
    tensors = setup.get("tensors", {}).values()
    there = sum(facts.get("gradient") == "there" for facts in tensors)
    return f"{there} of {len(tensors)} parameters have a gradient" if tensors else ""


def _repeatable(setup: dict[str, Any]) -> str:
    tests = setup.get("tests", {})
    return "; ".join(tests[name]["says"] for name in ("deterministic", "repeatable") if "says" in tests.get(name, {}))


def _later(setup: dict[str, Any]) -> str:
    return ""


POINTS: tuple[tuple[str, frozenset[str], Callable[[dict[str, Any]], str]], ...] = (
    ("data", frozenset({"D"}), _data),
    ("network", frozenset({"M01", "M06", "M07", "M10", "M15", "M16", "M17"}), _model),
    ("loss", frozenset({"L", "M02", "M03", "M04", "M05"}), _loss),
    ("optimizer", frozenset({"M08", "P04", "P16"}), _optimizer),
    ("regularization", frozenset({"M11", "M12", "M13", "P10"}), _regularization),
    ("initial values", frozenset({"P12", "P13"}), _initial),
    ("gradient flow", frozenset({"M09", "P03", "P07", "P08"}), _flow),
    ("overfitting", frozenset({"O"}), _later),
    ("resources", frozenset({"S"}), _later),
    ("reproducibility", frozenset({"S06"}), _repeatable),
)
