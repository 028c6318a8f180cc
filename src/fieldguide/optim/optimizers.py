"""Torch's optimizers behind one field of the recipe, fused wherever torch has a fused kernel."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn, optim

from fieldguide.errors import FieldguideError, unknown
from fieldguide.optim.groups import parameter_groups

_FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}


def build_optimizer(
    model: nn.Module,
    name: str = "adamw",
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    momentum: float = 0.9,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    layer_decay: float = 1.0,
    rates: Mapping[str, float] | None = None,
) -> optim.Optimizer:
    """The named optimizer over a model's (or a part's) trainable parameters; ``momentum`` serves SGD and RMSprop.

    Every group keeps its parameters' names (``param_names``), the base rate (``base_lr``), which the schedule
    multiplies, and its own share of that (``lr_scale``; ``layer_decay`` and ``rates`` are ``parameter_groups``'s).
    AdamW's decay is decoupled (Loshchilov & Hutter 2019, Alg. 2: weights shrink before the step); the others add it to
    the gradient. SGD uses Nesterov momentum (Sutskever et al. 2013).

    Raises:
        FieldguideError: an unknown optimizer, nothing to train, or what ``parameter_groups`` refuses.
    """
    groups = parameter_groups(model, weight_decay, layer_decay=layer_decay, rates=rates)
    if not groups:
        raise FieldguideError("optimizer: no parameter of the model requires a gradient, so there is nothing to train")
    for group in groups:
        group |= {"base_lr": lr, "lr": lr * group["lr_scale"]}
    parameters = [parameter for group in groups for _, parameter in group["params"]]
    fused = all(p.device.type in _FUSED_DEVICES and p.is_floating_point() for p in parameters) or None
    match name:
        case "adamw":
            return optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=fused)
        case "adam":
            return optim.Adam(groups, lr=lr, betas=betas, eps=eps, fused=fused)
        case "sgd":
            return optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
        case "rmsprop":  # torch has no fused RMSprop
            return optim.RMSprop(groups, lr=lr, momentum=momentum, eps=eps, foreach=True)
        case _:
            raise unknown("optimizer", name, ("adamw", "adam", "sgd", "rmsprop"))


def set_rate(optimizer: optim.Optimizer, factor: float) -> float:
    """Sets every group to its share of ``factor`` times the base rate; returns the whole, which the last layer has."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor * group["lr_scale"]
    return optimizer.param_groups[0]["base_lr"] * factor


class Optimizers(dict[str, optim.Optimizer]):
    """One optimizer for each part of a model, saved and restored together."""

    def state_dict(self) -> dict[str, Any]:
        return {part: optimizer.state_dict() for part, optimizer in self.items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for part, optimizer in self.items():
            optimizer.load_state_dict(state[part])
            for parameter, values in optimizer.state.items():
                values |= {name: _laid_out_like(parameter, value) for name, value in values.items()}


def _laid_out_like(parameter: Tensor, value: Any) -> Any:
    # Fused kernels walk memory, not indices: beside a channels-last weight a contiguous moment would be read in the
    # wrong order, silently (torch 2.15).
    if isinstance(value, Tensor) and value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return value
