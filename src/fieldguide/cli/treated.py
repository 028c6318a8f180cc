"""``fieldguide train … --doctor treat``: a training that is treated where it goes wrong, and goes on."""

import json
import sys
from typing import TYPE_CHECKING

from torch import nn

from fieldguide.doctor.treatment.runs import MOST, Critical, Guard, treat_run
from fieldguide.errors import FieldguideError
from fieldguide.train.failures import Diverged
from fieldguide.train.fitting import Run
from fieldguide.train.run import replace_text

if TYPE_CHECKING:
    from fieldguide.cli.training import Training

DIVERGED = ["lr-too-high", "non-finite-loss", "exploding-gradient"]


def treated(training: "Training", model: nn.Module) -> Run:
    """Fits, and after a critical finding or a loss that is not finite goes on with the recipe that mends it best.

    Raises:
        FieldguideError: many processes share the training.
        Diverged: no recipe that was tried is clearly better, or it was treated often enough.
    """
    if training.strategy.size > 1:
        raise FieldguideError("--doctor treat tries recipes in one process; leave it out, or train without torchrun")
    run, recipe, done = training.run, training.recipe, []
    resume, accept = training.resume, training.accept_changes
    while True:
        try:
            return training.fit_once(model, recipe, [Guard(done)], resume=resume, accept_changes=accept)
        except (Critical, Diverged) as problem:
            if len(done) >= MOST:
                raise
            causes = problem.causes if isinstance(problem, Critical) else DIVERGED
            change = treat_run(model, training.task.data, training.task.objective(recipe), run, causes)
            if isinstance(problem, Diverged) and not change.treatment.winner:
                raise
            done.append(f"{problem.args[0].partition(';')[0]}; {change}")
            print(f"treated   {done[-1]}", file=sys.stderr)
            kept = {"said": done[-1], "from_step": change.step, **change.treatment.to_json()}
            replace_text(run.path / f"treatment-{len(done)}.json", json.dumps(kept, indent=2) + "\n")
            recipe, resume, accept = change.recipe, True, True
            if not change.treatment.winner:
                done += [done[-1]] * (MOST - len(done))  # it has been seen, and nothing helps
