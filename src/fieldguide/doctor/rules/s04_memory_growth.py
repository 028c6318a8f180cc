"""S04 memory-growth: memory grows with every step.

What it looks for: memory that rose by more than 50 MiB over the second half of the samples, in a line (R² above 0.9).
Why it matters: the run will end without memory, hours later.
Usual causes: losses or outputs kept with their graphs; lists that are never emptied; a growing cache.
Known false alarms: data sets that are read into memory bit by bit during the first pass.
Fix: keep loss.item() or loss.detach().
"""

from statistics import correlation, linear_regression

from fieldguide.doctor.finding import Fix, Rule, Sign
from fieldguide.doctor.history import History


def judge(history: History) -> Sign | None:
    points = [
        (sample["step"], sample["memory"]) for sample in history.samples if "memory" in sample and sample["step"] > 5
    ]
    points = points[len(points) // 2 :]
    if len(points) < 6:
        return None
    steps, sizes = zip(*points, strict=True)
    slope, _ = linear_regression(steps, sizes)
    grown = slope * (steps[-1] - steps[0])
    if grown < 50 or correlation(steps, sizes) ** 2 < 0.9:
        return None
    return Sign(f"memory grows by {slope:.2g} MiB a step, {grown:.0f} MiB since step {steps[0]}", "50 MiB, in a line")


RULE = Rule(
    code="S04",
    slug="memory-growth",
    judge=judge,
    gated=False,
    fixes=(Fix("Keep loss.item() or loss.detach() instead of the loss", "detach"),),
    refute="Memory stays where it is for the next 500 steps.",
)
