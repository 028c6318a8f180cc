"""Gradient clipping by global norm, by value or unit by unit, and naming the gradients that are not finite.

Every way of clipping returns the global norm before it. None copies from an accelerator to the host, and values that
are not finite give a norm that is not finite: the caller decides what that means. A ``limit`` of 0 only measures.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

import torch
from torch import (
    _foreach_clamp_max_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_clamp_min_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_div_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_mul_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_norm,  # pyright: ignore[reportPrivateImportUsage]
    nn,
)

from fieldguide.errors import unknown
from fieldguide.optim.exchange import here
from fieldguide.shapes import Float, Tensor

Clip = Callable[[Sequence[nn.Parameter]], Float[Tensor, ""]]
"""Limits the gradients of parameters in place; returns their global norm before."""


def build_clip(name: str, limit: float, model: nn.Module) -> Clip:
    """``"norm"``, ``"value"`` or ``"adaptive"`` clipping for a model or a part of one.

    Adaptive clipping leaves out the last layer, as its paper does: the modules named ``head``, or else the last module
    that holds a matrix.

    Raises:
        FieldguideError: another name.
    """
    match name:
        case "norm":
            return partial(clip_gradients, max_norm=limit)
        case "value":
            return partial(clip_values, limit=limit)
        case "adaptive":
            return partial(clip_units, limit=limit, exempt=_last_layer(model))
        case _:
            raise unknown("way to clip", name, ("norm", "value", "adaptive"))


def global_norm(tensors: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Euclidean norm of all tensors together, on the device of the first; one foreach pass, no copy to the host."""
    norms = _foreach_norm(list(tensors))
    if len({(norm.device, norm.dtype) for norm in norms}) > 1:
        norms = [norm.to(norms[0]) for norm in norms]
    return torch.linalg.vector_norm(torch.stack(norms))


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> Float[Tensor, ""]:
    """Scales the gradients down to a global Euclidean norm of at most ``max_norm`` (Pascanu et al. 2013, Alg. 1)."""
    gradients, norm = _measured(parameters)
    # The CPU can look without waiting, and save the pass that would change nothing.
    if gradients and max_norm > 0 and not (norm.device.type == "cpu" and norm.item() + 1e-6 < 0.999 * max_norm):
        _foreach_mul_(gradients, (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm


def clip_values(parameters: Sequence[nn.Parameter], limit: float) -> Float[Tensor, ""]:
    """Moves each number of the gradients into −limit … limit, which can turn their direction (Mikolov 2012)."""
    gradients, norm = _measured(parameters)
    if gradients and limit > 0:
        for gradient in gradients:  # one pass where foreach has only one for each side
            gradient.clamp_(-limit, limit)
    return norm


def clip_units(
    parameters: Sequence[nn.Parameter], limit: float, exempt: Collection[nn.Parameter] = ()
) -> Float[Tensor, ""]:
    """Scales each unit's gradient down to ``limit`` times its weights' norm, or 1e-3 where that is larger.

    Brock et al. 2021, "High-Performance Large-Scale Image Recognition Without Normalization", eq. 3; they use 0.01 at
    batches of 4,096 and more at smaller ones. A unit is what feeds one output: a row of a matrix, a kernel of a
    convolution; vectors, such as biases, are one unit. The parameters in ``exempt`` are measured only.
    """
    gradients = {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
    if not gradients:
        return torch.zeros(())
    sizes = {parameter: _unit_norms(gradient) for parameter, gradient in gradients.items()}
    norm = global_norm(list(sizes.values()))
    chosen = [parameter for parameter in gradients if parameter not in exempt]
    if chosen and limit > 0:
        factors = [_unit_norms(parameter) for parameter in chosen]
        _foreach_clamp_min_(factors, 1e-3)
        _foreach_mul_(factors, limit)
        _foreach_div_(factors, [sizes[parameter].clamp(min=1e-6) for parameter in chosen])
        _foreach_clamp_max_(factors, 1.0)
        # As above, the CPU saves the passes that change nothing.
        pairs = [
            (gradients[p], f) for p, f in zip(chosen, factors, strict=True) if f.device.type != "cpu" or f.min() != 1
        ]
        if pairs:
            _foreach_mul_(*(list(column) for column in zip(*pairs, strict=True)))
    return norm


def non_finite_gradients(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> list[str]:
    """Names of the parameters whose gradient has a NaN or an infinity; for the error message, not for every step."""
    named = [(name, p.grad) for name, p in named_parameters if p.grad is not None]
    own = here(gradient for _, gradient in named)
    return [name for (name, _), gradient in zip(named, own, strict=True) if not gradient.isfinite().all()]


def _measured(parameters: Sequence[nn.Parameter]) -> tuple[list[Tensor], Float[Tensor, ""]]:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return gradients, global_norm(gradients) if gradients else torch.zeros(())


@torch.no_grad()
def _unit_norms(tensor: Tensor) -> Tensor:
    """Shaped so that it multiplies the tensor."""
    if tensor.ndim < 2:
        return torch.linalg.vector_norm(tensor)
    return torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.ndim)), keepdim=True)


def _last_layer(model: nn.Module) -> frozenset[nn.Parameter]:
    named = dict(model.named_modules())
    heads = [module for name, module in named.items() if name.rpartition(".")[2] == "head"]
    layers = [m for m in named.values() if any(p.ndim > 1 for p in m.parameters(recurse=False))]
    return frozenset(parameter for module in heads or layers[-1:] for parameter in module.parameters())
