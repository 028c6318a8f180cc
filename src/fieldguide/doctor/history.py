"""A run as the rules see it: what was recorded so far, and whether the run is failing. Plain numbers, no torch."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from fieldguide.trace import Record


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What the user does on purpose, so that no rule complains about it."""

    frozen: tuple[str, ...] = ()
    """Patterns of parameter names; ``("*",)`` for any."""
    accumulation: int = 1
    """Backward passes for one optimizer step."""
    gan: bool = False
    """Several networks play against each other: their losses need not fall."""


class History:
    """Records of one run in their order; a rule reads the lists and the quantities derived from them."""

    def __init__(self, intent: Intent | None = None):
        self.intent = intent or Intent()
        self.setup: dict[str, Any] = {}
        """Facts of ``records.Setup``, merged."""
        self.steps: list[Record] = []
        self.samples: list[Record] = []
        self.evals: list[Record] = []
        self.probes: dict[str, dict[str, float]] = {}
        self.epochs: list[Record] = []
        self.end: Record | None = None

    @classmethod
    def of(cls, records: Iterable[Record], intent: Intent | None = None) -> "History":
        history = cls(intent)
        for record in records:
            history.add(record)
        return history

    def add(self, record: Record) -> None:
        """Takes the next record; kinds that are not known are left out."""
        kind = record.get("kind")
        if kind == "setup":
            _merge(self.setup, {key: value for key, value in record.items() if key not in {"kind", "step"}})
        elif kind == "step":
            if not record.get("left_out"):  # its batch was bad: nothing was learned from it, and its loss says nothing
                self.steps.append(record)
        elif kind == "sample":
            self.samples.append(record)
        elif kind == "eval":
            self.evals.append(record)
        elif kind == "epoch":
            self.epochs.append(record)
            if "val_loss" in record:
                figures = {name[4:]: value for name, value in record.items() if name.startswith("val_")}
                self.evals.append({"kind": "eval", "step": record["step"], **figures})
        elif kind == "probe":
            self.probes[record["name"]] = record["figures"]
        elif kind == "end":
            self.end = record
        for name in _DERIVED:
            self.__dict__.pop(name, None)

    @property
    def step(self) -> int:
        """Optimizer steps so far."""
        return max((records[-1]["step"] for records in (self.steps, self.samples) if records), default=0)

    @property
    def last(self) -> Record:
        """The newest sample; empty before the first."""
        return self.samples[-1] if self.samples else {}

    def fact(self, part: str, name: str) -> Any:
        """One fact of the set-up, or None where it was not measured."""
        return self.setup.get(part, {}).get(name)

    def series(self, name: str, last: int | None = None) -> list[float]:
        """A figure over the samples that have it, oldest first."""
        values = [sample[name] for sample in self.samples if name in sample]
        return values if last is None else values[-last:]

    def layers(self, name: str) -> dict[str, float]:
        """A figure of every layer in the newest sample, in the order of the network."""
        return {layer: signs[name] for layer, signs in self.last.get("layers", {}).items() if name in signs}

    # ------------------------------------------------------------------------------------------------- losses

    @cached_property
    def losses(self) -> list[float]:
        """Training losses, one for each step where steps were recorded, else for each sample."""
        return [record["loss"] for record in (self.steps or self.samples) if "loss" in record]

    @cached_property
    def finite(self) -> list[float]:
        return [loss for loss in self.losses if math.isfinite(loss)]

    @cached_property
    def window(self) -> int:
        """Steps that a level of the loss is taken over: a tenth of the run, 5 to 100."""
        return max(5, min(100, len(self.losses) // 10))

    @cached_property
    def level(self) -> float:
        """Where the training loss is now: the median of the last window."""
        return median(self.finite[-self.window :]) if self.finite else math.nan

    @cached_property
    def start(self) -> float:
        """Where it began: the median of the first five steps."""
        return median(self.finite[:5]) if self.finite else math.nan

    @cached_property
    def best(self) -> float:
        """The lowest level so far."""
        return min(self.levels, default=math.nan)

    @cached_property
    def levels(self) -> list[float]:
        """Medians of consecutive windows, oldest first; the last window ends at the newest step."""
        losses, size = self.finite, self.window
        starts = range(len(losses) % size, len(losses), size)
        return [median(losses[at : at + size]) for at in starts]

    @cached_property
    def noise(self) -> float:
        """Spread of the loss from step to step around its own trend: the median of |differences|, as a deviation."""
        recent = self.finite[-4 * self.window :]
        steps = [abs(after - before) for before, after in itertools.pairwise(recent)]
        return 1.05 * median(steps) if steps else 0.0  # √½ / 0.6745 for a normal distribution

    @cached_property
    def baseline(self) -> float | None:
        """What the best constant answer costs, where it is known."""
        known = [sample["baseline"] for sample in self.samples[-3:] if "baseline" in sample]
        return known[-1] if known else self.fact("loss", "baseline")

    @cached_property
    def descending(self) -> bool:
        """The second half of the recent losses is lower than the first by 1 % and by more than noise explains."""
        recent = self.finite[-max(40, len(self.finite) // 2) :]
        half = len(recent) // 2
        if half < 5:
            return True  # too early to say it is not
        error = self.noise * math.sqrt(2 / half)
        before, now = _mean(recent[:half]), _mean(recent[half:])
        return now < before - max(3 * error, 0.01 * abs(before))

    @cached_property
    def failing(self) -> str | None:
        """Why this run does not do what a training should, in a few words; None when it does, or too early to say."""
        losses = self.losses
        if losses and not math.isfinite(losses[-1]):
            return "the loss is not finite"
        if len(losses) < 20 or self.intent.gan or self.fact("model", "models") not in {None, 1}:
            return None
        reference = self.baseline if self.baseline and self.baseline > 0 else abs(self.start)
        risen = self.level - self.best
        if self.best < 0:  # rewards, critics and densities have no floor to be measured from
            return None
        if risen > max(self.best, 0.1 * reference) and risen > 4 * self.noise:
            return f"the loss is {self.level:.3g} and has been {self.best:.3g}"
        if self.end and (unproven := self._unproven):
            return unproven
        if self.descending:
            return None
        if self.baseline is not None and self.level > 0.98 * self.baseline:
            return f"the loss of {self.level:.3g} is no better than a constant answer's {self.baseline:.3g}"
        learned = self.baseline is not None and abs(self.start) < 0.7 * reference  # before, and goes on from there
        if self.level > 0.9 * abs(self.start) and self.level > 0.3 * reference and not learned:
            return f"the loss of {self.level:.3g} has hardly fallen from {self.start:.3g}"
        return None

    @cached_property
    def compared(self) -> list[tuple[float, float]]:
        """The loss of each evaluation, and that of a constant answer, where both are known."""
        pairs = [(record.get("loss", math.nan), record.get("baseline", 0.0)) for record in self.evals]
        return [(loss, constant) for loss, constant in pairs if math.isfinite(loss) and constant > 0]

    @cached_property
    def _unproven(self) -> str | None:
        """No evaluation was better than a constant answer; said of whole runs only: some generalise late."""
        if len(self.compared) < 3 or min(loss / constant for loss, constant in self.compared) < 0.99:
            return None
        best, constant = min(self.compared)
        return f"the best evaluation, {best:.3g}, is no better than a constant answer's {constant:.3g}"


_DERIVED = tuple(name for name, value in vars(History).items() if isinstance(value, cached_property))


def _merge(facts: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(facts.get(key), dict):
            facts[key] = {**facts[key], **value}
        else:
            facts[key] = value


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
