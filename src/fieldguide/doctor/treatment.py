"""Treatment: which fix closes the gap, tried on forks of a training that never reach it.

Every fix goes on from the same copied state, on the same kept batches and random numbers, for the same number of
steps; so does one fork without any, the control. Adding a fix is adding a line to ``TREATMENTS``. What a fork cannot do
(its gradients are always fresh, its loss and its data those of the script) is not in the table: it needs a change of
the code.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fieldguide.doctor.finding import Fix
from fieldguide.doctor.probes.fork import Fork
from fieldguide.doctor.probes.suspicion import Bench

STEPS = 200


@dataclass(frozen=True)
class Trial:
    """What a fix came to: mean loss over the kept batches before and after the budget."""

    fix: Fix
    before: float
    after: float
    control: float
    """The loss after the same number of steps without the fix."""

    @property
    def gain(self) -> float:
        """How much lower the loss is than without the fix; minus infinity when it is not finite."""
        if self.after != self.after or self.after == float("inf"):
            return float("-inf")
        return self.control - self.after if self.control < float("inf") else float("inf")


def treatable(fix: Fix) -> bool:
    """Whether it can be tried on a copy; others need a change of the code."""
    return fix.apply in TREATMENTS


def treat(bench: Bench, fixes: Sequence[Fix], steps: int = STEPS) -> list[Trial]:
    """Every treatable fix tried for ``steps`` steps, the lowest loss first; fixes of the same action are tried once."""
    control = _tried(bench, None, steps)[1]
    chosen = {fix.apply: fix for fix in reversed(fixes) if treatable(fix)}
    trials = [Trial(fix, *_tried(bench, TREATMENTS[apply], steps), control) for apply, fix in chosen.items()]
    return sorted(trials, key=lambda trial: trial.after if trial.gain > float("-inf") else float("inf"))


def _tried(bench: Bench, change: Callable[[Fork], object] | None, steps: int) -> tuple[float, float]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fork = Fork(bench.replay, bench.optimizer)
        before = fork.loss(training=True)
        if change:
            change(fork)
        fork.learn(steps)
        after = fork.loss(training=True)
    return before, after if after == after else float("inf")


def _rate(factor: float) -> Callable[[Fork], object]:
    return lambda fork: _scale(fork, "lr", factor)


def _scale(fork: Fork, setting: str, factor: float) -> None:
    for group in fork.optimizer.param_groups:
        if setting in group:
            group[setting] = group[setting] * factor


def _clip(fork: Fork) -> None:
    fork.clip = 1.0


def _fresh(fork: Fork) -> None:
    """New initial values; what the optimizer remembers of the old ones goes with them."""
    fork.afresh()
    fork.optimizer.state.clear()


TREATMENTS: dict[str, Callable[[Fork], object]] = {
    "lr / 3": _rate(1 / 3),
    "lr / 10": _rate(1 / 10),
    "lr / 100": _rate(1 / 100),
    "lr * 10": _rate(10.0),
    "clip": _clip,
    "weight_decay / 100": lambda fork: _scale(fork, "weight_decay", 1 / 100),
    "init": _fresh,
    "revive": _fresh,
}
"""By the words of ``Fix.apply``."""
