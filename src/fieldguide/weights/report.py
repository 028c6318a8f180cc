"""What happened to every tensor of a checkpoint."""

from collections.abc import Collection
from dataclasses import dataclass

from fieldguide.weights.preprocessing import Preprocessing


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of loading; ``print(report)`` says it in a few lines."""

    source: str
    layout: str
    loaded: tuple[str, ...]
    """Our names of the tensors that were filled."""
    adapted: dict[str, str]
    """Our names of those among them that were made to fit, and how."""
    kept: dict[str, str]
    """Our names of the tensors that keep the model's own values, and why."""
    ignored: dict[str, str]
    """Their names of the tensors that were not used, and why."""
    conventions: dict[str, str]
    """Fields of the model's config that were changed to what the layout's library has."""
    preprocessing: Preprocessing | None = None
    """How images must be prepared for these weights, where that is known."""

    def __str__(self) -> str:
        lines = [f"{len(self.loaded)} tensors from {self.source} ({self.layout} layout)"]
        for label, notes in (("adapted", self.adapted), ("kept our own", self.kept), ("ignored", self.ignored)):
            by_reason: dict[str, list[str]] = {}
            for name, reason in notes.items():
                by_reason.setdefault(reason, []).append(name)
            lines += [f"{label} {few(names)}: {reason}" for reason, names in by_reason.items()]
        lines += [f"{name} {change}, as {self.layout} has it" for name, change in self.conventions.items()]
        return "\n".join(lines)


def few(names: Collection[str], shown: int = 3) -> str:
    """The first names of many, and how many more there are."""
    rest = len(names) - shown
    return ", ".join(list(names)[:shown]) + (f" and {rest} more" if rest > 0 else "")
