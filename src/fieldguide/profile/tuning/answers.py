"""Whether a faster network still gives the original's answers: on the examples, and on others like them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fieldguide.errors import FieldguideError
from fieldguide.profile.tuning.candidate import Arguments


def alike(arguments: Arguments, seed: int = 0) -> Arguments:
    """Arguments of the same shapes, drawn from the numbers of these; what only says yes or no stays."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(x: Tensor) -> Tensor:
        if x.dtype == torch.bool or not x.numel():
            return x
        places = torch.randint(x.numel(), (x.numel(),), generator=generator)
        return x.flatten()[places.to(x.device)].view(x.shape)

    return tuple(map(drawn, arguments))


@torch.no_grad()
def answer(model: nn.Module, arguments: Arguments) -> list[Tensor]:
    """All tensors of the output; networks that draw random numbers draw the same ones every time."""
    torch.manual_seed(0)
    return [x for x in tree_leaves(model(*arguments)) if isinstance(x, Tensor)]


def difference(found: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """‖found − reference‖ / ‖reference‖, the largest over the tensors; infinite where whole numbers or shapes differ.

    Numbers that are not finite must be so in both.
    """
    if len(found) != len(reference):
        return float("inf")
    return max((_difference(a, b) for a, b in zip(found, reference, strict=True)), default=0.0)


def _difference(found: Tensor, reference: Tensor) -> float:
    if found.shape != reference.shape or found.is_floating_point() != reference.is_floating_point():
        return float("inf")
    if not (reference.is_floating_point() or reference.is_complex()):
        return 0.0 if torch.equal(found, reference) else float("inf")
    finite = reference.isfinite()
    if not torch.equal(found.isfinite(), finite):
        return float("inf")
    a, b = found[finite].double(), reference[finite].double()
    scale = b.norm().item()
    return (a - b).norm().item() / (scale or 1.0)


class Examples:
    """The original's answers to some arguments. Raises FieldguideError for a network without a repeatable answer."""

    def __init__(self, model: nn.Module, examples: Sequence[Arguments], tolerance: float):
        self.answers: list[tuple[Arguments, list[Tensor]]] = []
        for arguments in examples:
            reference = answer(model, arguments)
            again = difference(answer(model, arguments), reference)
            if again > tolerance:
                raise FieldguideError(
                    f"{type(model).__name__} gives other answers to the same example (relative difference {again:.1e}),"
                    " so no faster one can be compared; make it repeat itself, or raise the tolerance"
                )
            self.answers.append((arguments, reference))

    def error(self, model: nn.Module) -> float:
        """The largest difference over the examples."""
        return max(difference(answer(model, arguments), reference) for arguments, reference in self.answers)
