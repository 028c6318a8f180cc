"""A recipe's schedule as a picture, before a step is trained: text for the terminal, PNG for a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fieldguide.optim.schedules import build_plan
from fieldguide.report.style import BLUE, GREEN, ORANGE, figure
from fieldguide.train.recipe import Recipe

ROWS = 8
EIGHTHS = " ▁▂▃▄▅▆▇█"
COLOURS = {"learning rate": GREEN, "weight decay": ORANGE, "momentum": BLUE}


@dataclass(frozen=True)
class Course:
    """What one setting of the optimizer is at each step."""

    name: str
    values: tuple[float, ...]

    @property
    def moves(self) -> bool:
        return max(self.values) > min(self.values)

    @property
    def floor(self) -> float:
        """The bottom of its picture: 0, but for what moves far above it, as momentum does."""
        return min(self.values) if self.moves and min(self.values) > 0.7 * max(self.values) else 0.0


def courses(recipe: Recipe, steps: int) -> list[Course]:
    """The learning rate, weight decay and (where the schedule moves it) momentum of every optimizer step."""
    settings = [build_plan(recipe.schedule, steps).at(step) for step in range(steps)]
    rate, decay = recipe.optimizer.lr, recipe.optimizer.weight_decay
    found = [
        Course("learning rate", tuple(rate * setting.rate for setting in settings)),
        Course("weight decay", tuple(decay * setting.weight_decay for setting in settings)),
    ]
    momenta = tuple(setting.momentum for setting in settings if setting.momentum is not None)
    return found + [Course("momentum", momenta)] * bool(momenta)


def headline(recipe: Recipe, steps: int) -> str:
    """The schedule's name, and what a picture cannot show."""
    schedule = recipe.schedule
    name = f"{schedule.name.replace('_', ' ')} over {steps:,} steps"
    if schedule.name != "plateau":
        return name
    return f"{name}; ×{schedule.gamma:g} after every {schedule.plateau_epochs} epochs that bring nothing better"


def schedule_text(course: Course, columns: int = 64) -> str:
    """One setting against the step, at most ``columns`` wide without its labels; each column shows its highest step."""
    columns, steps = min(columns, len(course.values)), len(course.values)
    ends = [round(steps * column / columns) for column in range(columns + 1)]
    peaks = [max(course.values[begin:end]) for begin, end in pairwise(ends)]
    floor, top = course.floor, max(peaks)
    heights = [round(8 * ROWS * (peak - floor) / (top - floor or 1)) for peak in peaks]
    lines = ["".join(EIGHTHS[min(8, max(0, height - 8 * row))] for height in heights) for row in reversed(range(ROWS))]
    labels = [f"{top:.4g}", *[""] * (ROWS - 2), f"{floor:.4g}"]
    margin = max(map(len, labels))
    last = f"step {steps:,}"
    return "\n".join(
        [
            course.name,
            *(f"{label:>{margin}} │{line}".rstrip() for label, line in zip(labels, lines, strict=True)),
            f"{'':>{margin}} └{'─' * columns}",
            f"{'':>{margin}}  1{last:>{columns - 1}}",
        ]
    )


def draw_schedule(found: Sequence[Course], title: str, file: Path) -> Path:
    """Draws each setting that moves, and the learning rate in any case, against the step."""
    shown = [course for course in found if course.moves or course.name == "learning rate"]
    heights = [2.4, *[1.3] * (len(shown) - 1)]
    with figure(file, 7.2, sum(heights) + 0.9) as drawing:
        drawing.suptitle(title, x=0.01, ha="left", fontsize=11, wrap=True)
        axes = drawing.subplots(len(shown), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        for axis, course in zip(axes, shown, strict=True):
            numbers = range(1, len(course.values) + 1)
            axis.plot(numbers, course.values, color=COLOURS[course.name])
            axis.fill_between(numbers, course.values, course.floor, color=COLOURS[course.name], alpha=0.12, linewidth=0)
            axis.set_title(course.name)
            axis.set_ylim(course.floor, course.floor + 1.06 * (max(course.values) - course.floor))
            axis.locator_params(axis="y", nbins=4)
            axis.yaxis.set_major_formatter("{x:g}")
            axis.margins(x=0.01)
        axes[-1].set_xlabel("optimizer step")
    return file
