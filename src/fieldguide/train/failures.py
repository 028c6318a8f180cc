"""What ends a training early, said in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.optim import non_finite_gradients
from fieldguide.optim.exchange import here
from fieldguide.train.progress import Progress
from fieldguide.train.recipe import Recipe

if TYPE_CHECKING:
    from fieldguide.train.distributed import Strategy

_ADVICE = "the last checkpoint is good: try a smaller optimizer.lr or more schedule.warmup"


class Stopped(SystemExit):
    """Ctrl-C or SIGTERM was heard and the state is saved; ends a script with 130 or 143 unless it is caught."""


class BadData(FieldguideError):
    """A batch could not be read; the training stands between two steps."""


class Diverged(FieldguideError):
    """The loss or a gradient is not finite, or the loss a spike; the parameters are those of the step before."""

    def __init__(self, what: str, advice: str, record: dict, spoiled: bool = False):
        super().__init__(f"{what}; {advice}")
        self.what, self.record, self.spoiled = what, record, spoiled
        """What happened · the same as a record · whether an earlier step has left weights that are not finite."""

    def after(self, history: str) -> "Diverged":
        """The same, after this was tried."""
        return Diverged(self.what, history, self.record, self.spoiled)


def diverged(
    model: nn.Module, done: Progress, strategy: "Strategy", loss: float, grad_norm: float, spike: str = ""
) -> Diverged:
    """The error that names the step after those done, and the parameters whose gradient is not finite."""
    step, epoch, batch = done.step + 1, done.epoch, done.position
    spoiled = not finite(model, strategy)
    names = non_finite_gradients(model.named_parameters())
    where = f"; gradients not finite: {_listed(names)}" if names else ""
    what = f"step {step} (epoch {epoch}): the loss is {loss:.4g} and the gradient norm {grad_norm:.4g}{where}"
    record = {"kind": "failure", "step": step, "epoch": epoch, "batch": batch, "loss": loss, "grad_norm": grad_norm}
    advice = f'the step was not taken and {_ADVICE}; on_bad_batch = "skip" goes on without the batch'
    if spoiled:
        advice = f"an earlier update has left weights that are not finite; {_ADVICE}"
    return Diverged(f"{what}{spike and ', '}{spike}", advice, record | {"parameters": names}, spoiled)


def require_finite(model: nn.Module, done: Progress, strategy: "Strategy") -> None:
    """No weight that is not finite leaves a training; one copy from device to host.

    Raises:
        Diverged: the update of the last step, or one since the last save, was too large.
    """
    if not finite(model, strategy):
        names = [n for n, p in model.named_parameters() if not all(own.isfinite().all() for own in here([p]))]
        step, epoch = done.step, done.epoch
        what = f"step {step} (epoch {epoch}): parameters that are not finite after its update: {_listed(names)}"
        record = {"kind": "failure", "step": step, "epoch": epoch, "parameters": names}
        raise Diverged(what, f"they are not saved and {_ADVICE}", record, spoiled=True)


def finite(model: nn.Module, strategy: "Strategy") -> bool:
    """Whether all parameters, in all processes, are finite numbers."""
    own = here(parameter.detach() for parameter in model.parameters())
    largest = [parameter.abs().amax() for parameter in own if parameter.numel()]
    fine = not largest or torch.stack([value.double().to(largest[0].device) for value in largest]).isfinite().all()
    return not strategy.agree(int(not fine))


class Elsewhere(MemoryError):
    """Another process of the training has run out of memory."""


@contextmanager
def out_of_memory_explained(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Turns running out of memory into the error that says which settings need less for the same step."""
    try:
        yield
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
        raise FieldguideError(f"out of memory on {device}: {smaller_batches(recipe)}") from problem


def smaller_batches(recipe: Recipe) -> str:
    """Which settings need less memory for the same step."""
    if recipe.batch_size == 1:
        return "batch_size is 1 already; use a smaller model or smaller inputs"
    half, samples = -(-recipe.batch_size // 2), recipe.batch_size * recipe.accumulation
    return f"set batch_size {half} and accumulation {2 * recipe.accumulation} (still {samples} samples a step)"


@contextmanager
def final_out_of_memory(what: str) -> Iterator[None]:
    """Memory that runs out in here is no matter of the batch: said at once, as smaller ones would not help."""
    try:
        yield
    except (RuntimeError, MemoryError) as problem:
        if not is_out_of_memory(problem):
            raise
        raise FieldguideError(f"out of memory for {what}: smaller batches do not help") from problem


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether torch or Python could not get memory."""
    # On the CPU torch raises a plain RuntimeError.
    return isinstance(problem, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(problem)


def _listed(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
