"""What ``tune`` gives back: the network to call, how much faster it is, and what was tried."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fieldguide.profile.tuning.candidate import Arguments, Choice, copied

HALVES = (torch.bfloat16, torch.float16)


class TunedModel(nn.Module):
    """Takes and gives what the original does, in evaluation mode and without gradients; its weights are copies."""

    def __init__(self, original: nn.Module, chosen: Choice, arguments: Arguments, dtype: torch.dtype):
        super().__init__()
        self.chosen, self.dtype = chosen, dtype
        with torch.no_grad():
            network = copied(original).eval()
            for setting in chosen:
                arguments = setting.given(arguments)
                network = setting.apply(network, arguments)
        self.network = network

    @torch.no_grad()
    def forward(self, *arguments: Any) -> Any:
        with ExitStack() as surroundings:
            for setting in self.chosen:
                surroundings.enter_context(setting.around())
                arguments = setting.given(arguments)
            output = self.network(*arguments)
        return tree_map(self._as_before, output)

    def _as_before(self, x: Any) -> Any:
        return x.to(self.dtype) if isinstance(x, Tensor) and x.dtype in HALVES else x


@dataclass(frozen=True)
class Trial:
    """A choice that was made and compared with the original."""

    model: nn.Module
    run: Callable[[], object]
    error: float
    once: float = 0.0
    """Seconds of the first call that was timed."""


@dataclass(frozen=True)
class Row:
    """One choice of settings and what became of it."""

    settings: tuple[str, ...]
    verdict: str
    error: float | None = None
    """Largest relative difference from the original's answers."""
    seconds: float | None = None
    """Of one call, the median of the last heat that it ran in."""
    speedup: float | None = None
    """Against the original in the same rounds."""
    preparation: float | None = None
    """Seconds that making and comparing it took, compiling included."""

    @property
    def title(self) -> str:
        return " + ".join(self.settings) or "original"


@dataclass(frozen=True)
class Tuned:
    """The fastest way found that keeps the answers; the original itself where nothing was faster."""

    model: nn.Module
    settings: tuple[str, ...]
    """What is laid over each other; empty for the original."""
    seconds: float
    """Of one call."""
    speedup: float
    """The original's time over it: the median of rounds that took no part in the choice."""
    error: float
    """Largest relative difference from the original's answers on the examples."""
    tolerance: float
    table: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """Why the original was kept, or why the times should not be trusted."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Of a training: the fields of a recipe that say the same."""
    step: Callable[[], object] | None = None
    """Of a training: one step of a copy with these settings, for measurements; None for the original's."""
    remembered: bool = False
    """Whether the settings come from an earlier measurement; then only the answers were compared again."""

    def __str__(self) -> str:
        tried = [row for row in self.table if not row.verdict.startswith("not tried")]
        width = max(len(row.title) for row in tried)
        lines = [f"{'':<{width}} {'ms':>9} {'speed-up':>9} {'error':>8}  verdict"]
        for row in tried:
            milliseconds = f"{row.seconds * 1e3:.2f}" if row.seconds is not None else ""
            speedup = f"{row.speedup:.2f}x" if row.speedup is not None else ""
            error = f"{row.error:.1e}" if row.error is not None else ""
            lines.append(f"{row.title:<{width}} {milliseconds:>9} {speedup:>9} {error:>8}  {row.verdict}")
        lines += [f"{row.title}: {row.verdict}" for row in self.table if row not in tried]
        chosen = " + ".join(self.settings) or "the original"
        return "\n".join([*lines, *self.notes, f"{chosen}: {self.speedup:.2f} times as fast"])

    def to_json(self) -> dict[str, Any]:
        """Everything but the network, as plain values."""
        plain = {name: value for name, value in vars(self).items() if name not in ("model", "step", "table")}
        return {**plain, "recipe": dict(self.recipe), "table": [vars(row) for row in self.table]}


def names(chosen: Choice) -> tuple[str, ...]:
    return tuple(map(str, chosen))
