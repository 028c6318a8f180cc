"""What each fix does to a recipe, by the words of ``Fix.apply``: for trainings of our own, which have one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from fieldguide.doctor.treatment.trials import proposed
from fieldguide.train.recipe import OptimizerRecipe, Recipe

Change = Callable[[Recipe], Recipe]


@dataclass(frozen=True)
class Dose:
    """One dose of a fix for a cause, and the recipe that it makes."""

    cause: str
    fix: str
    title: str
    recipe: Recipe


def _rate(factor: float) -> Change:
    return lambda r: replace(r, optimizer=replace(r.optimizer, lr=r.optimizer.lr * factor))


def _decay(factor: float) -> Change:
    return lambda r: replace(r, optimizer=replace(r.optimizer, weight_decay=r.optimizer.weight_decay * factor))


def _constants(recipe: Recipe) -> Recipe:
    usual = OptimizerRecipe(name=recipe.optimizer.name)
    return replace(recipe, optimizer=replace(recipe.optimizer, betas=usual.betas, eps=usual.eps))


LOWER = {f"learning rate / {by:,}": _rate(1 / by) for by in (3, 10, 100, 1000)}
CHANGES: dict[str, dict[str, Change]] = {
    "lr / 3": {"learning rate / 3": LOWER["learning rate / 3"]},
    "lr / 10": LOWER,
    "lr * 10": {f"learning rate × {by}": _rate(float(by)) for by in (10, 100)},
    "lr constant": {"a constant rate": lambda r: replace(r, schedule=replace(r.schedule, name="constant"))},
    "warm up": {"warm-up over a fifth": lambda r: replace(r, schedule=replace(r.schedule, warmup=0.2))},
    "clip": {"gradients clipped at 1": lambda r: replace(r, clip=1.0, clip_by="norm")},
    "clip none": {"no clipping": lambda r: replace(r, clip=0.0)},
    "weight_decay / 100": {"weight decay / 100": _decay(0.01), "no weight decay": _decay(0.0)},
    "constants": {"usual betas and eps": _constants},
    "bf16": {"bfloat16": lambda r: replace(r, precision="bf16")},
}


def doses(recipe: Recipe, causes: Sequence[str]) -> Iterator[Dose]:
    """Recipes that the fixes of these causes make of a recipe, each once, and none that is the recipe itself."""
    seen = [recipe]
    for cause, fix in proposed(causes):
        for title, change in CHANGES.get(fix.apply, {}).items():
            other = change(recipe)
            if other not in seen:
                seen.append(other)
                yield Dose(cause, fix.title, title, other)
