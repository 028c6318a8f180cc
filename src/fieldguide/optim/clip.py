"""Gradient clipping by global norm, and naming the parameters whose gradient is not finite."""

from collections.abc import Iterable, Sequence

import torch
from torch import (
    _foreach_mul_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_norm,  # pyright: ignore[reportPrivateImportUsage]
    nn,
)

from fieldguide.shapes import Float, Tensor


def global_norm(tensors: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Euclidean norm of all tensors together, on the device of the first; one foreach pass, no copy to the host."""
    norms = _foreach_norm(list(tensors))
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0]) for norm in norms]))


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> Float[Tensor, ""]:
    """Scales the gradients down to a global Euclidean norm of at most ``max_norm``; returns the norm before.

    Pascanu et al. 2013, Alg. 1; ``max_norm = 0`` only measures. Nothing is copied to the host. Gradients that are not
    finite give a norm that is not finite: the caller decides what that means.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros(())
    norm = global_norm(gradients)
    if max_norm > 0:
        _foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def non_finite_gradients(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> list[str]:
    """Names of the parameters whose gradient has a NaN or an infinity; for the error message, not for every step."""
    return [name for name, p in named_parameters if p.grad is not None and not p.grad.isfinite().all()]
