"""What ends a training early, said in one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.optim import non_finite_gradients
from fieldguide.train.recipe import Recipe


class Stopped(SystemExit):
    """Ctrl-C or SIGTERM was heard and the state is saved; ends a script with 130 or 143 unless it is caught."""


class Diverged(FieldguideError):
    """The loss or a gradient is not a finite number; the parameters are still those of the step before."""

    def __init__(self, message: str, record: dict):
        super().__init__(message)
        self.record = record


def diverged(model: nn.Module, step: int, epoch: int, loss: float, grad_norm: float) -> Diverged:
    """The error that names the step and the parameters whose gradient is not finite."""
    names = non_finite_gradients(model.named_parameters())
    record = {"kind": "failure", "step": step, "epoch": epoch, "loss": loss, "grad_norm": grad_norm}
    where = f"; gradients not finite: {_listed(names)}" if names else ""
    return Diverged(
        f"step {step} (epoch {epoch}): the loss is {loss:.4g} and the gradient norm {grad_norm:.4g}{where}; "
        "the step was not taken and the last checkpoint is good: try a smaller optimizer.lr or more schedule.warmup",
        record | {"parameters": names},
    )


@contextmanager
def out_of_memory_explained(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Turns running out of memory into the error that says which settings need less for the same step."""
    try:
        yield
    except (RuntimeError, MemoryError) as problem:
        if not _is_out_of_memory(problem):
            raise
        half, samples = -(-recipe.batch_size // 2), recipe.batch_size * recipe.accumulation
        advice = f"set batch_size {half} and accumulation {2 * recipe.accumulation} (still {samples} samples a step)"
        if recipe.batch_size == 1:
            advice = "batch_size is 1 already; use a smaller model or smaller inputs"
        raise FieldguideError(f"out of memory on {device}: {advice}") from problem


def _is_out_of_memory(problem: BaseException) -> bool:
    # On the CPU torch raises a plain RuntimeError.
    return isinstance(problem, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(problem)


def _listed(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
