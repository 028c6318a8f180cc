"""What strategies have in common whose processes each own a part of the parameters."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fieldguide.errors import FieldguideError
from fieldguide.objectives.phase import Objective
from fieldguide.optim import global_norm
from fieldguide.train.distributed.group import Group
from fieldguide.train.recipe import Recipe

ELEMENTWISE = ("adamw", "adam", "sgd", "rmsprop", "nadam", "radam", "lion")
"""Optimizers that move each number by its own gradient, so that a part of a matrix needs no other part."""


def require_parts(strategy: str, recipe: Recipe, objective: Objective, model: nn.Module) -> None:
    """Refuses what looks at whole tensors.

    Raises:
        FieldguideError: the optimizer, a setting or the objective needs whole gradients or weights.
    """
    if recipe.optimizer.name not in ELEMENTWISE:
        raise FieldguideError(
            f"distributed: {strategy} splits matrices, which {recipe.optimizer.name} needs whole; "
            f'use optimizer.name = "adamw" ({", ".join(ELEMENTWISE)} will do), or --distributed ddp'
        )
    whole = {
        "clip_by": recipe.clip_by != "norm",
        **{name: bool(getattr(recipe, name)) for name in ("centralize", "sharpness", "swa", "head_epochs")},
    }
    for field in [field for field, used in whole.items() if used]:
        raise FieldguideError(
            f"distributed: {strategy} splits tensors, which {field} = {getattr(recipe, field)!r} needs whole; "
            "leave it out, or use --distributed ddp"
        )
    parts = objective.parts(model)
    if [*parts.values()] != [model]:
        raise FieldguideError(
            f"distributed: {strategy} trains a model as one, but this objective trains {', '.join(parts)} in turn; "
            "use --distributed ddp"
        )


@torch.no_grad()
def receive(model: nn.Module, trained: nn.Module, gathered: Callable[[str, Tensor], Tensor]) -> None:
    """Gives a model what another one of its kind has learned, put together one tensor after the other."""
    own = model.state_dict()
    for name, tensor in trained.state_dict().items():
        own[name].copy_(gathered(name, tensor))


@torch.no_grad()
def clip_norm(split: Sequence[Tensor], everywhere: Sequence[Tensor], limit: float, group: Group) -> Tensor:
    """Scales gradients down to a global norm of at most ``limit`` (0 only measures); returns the norm before.

    ``split`` are this process's parts of gradients; ``everywhere`` are the same on all processes and count once.
    """
    square = global_norm(split).square() if split else torch.zeros((), device=group.device)
    square = group.sum(square.double())
    if everywhere:
        square = square + global_norm(everywhere).double().square()
    norm = square.sqrt().to((*split, *everywhere)[0]) if split or everywhere else square
    if limit > 0:
        factor = (limit / (norm + 1e-6)).clamp(max=1.0)
        for gradient in (*split, *everywhere):
            gradient.mul_(factor)
    return norm
