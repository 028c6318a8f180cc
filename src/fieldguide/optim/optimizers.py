"""Every optimizer behind one field of the recipe, fused wherever torch has a fused kernel."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn, optim

from fieldguide.errors import FieldguideError, unknown
from fieldguide.optim.groups import parameter_groups
from fieldguide.optim.lamb import LAMB
from fieldguide.optim.muon import Muon, hidden_matrices
from fieldguide.optim.schedule_free import ScheduleFreeAdamW
from fieldguide.optim.soap import SOAP
from fieldguide.optim.together import Together

OPTIMIZERS = (
    *("adamw", "adam", "sgd", "rmsprop", "nadam", "radam", "adafactor"),
    *("muon", "lion", "lamb", "soap", "schedule_free"),
)
"""The names; ``fieldguide lookup optimizer`` says what each is for."""

_NUMBERS = ("param_names", "base_lr", "lr_scale", "weight_decay", "momentum", "nesterov", "betas", "eps")
"""What a recipe decides of a group."""
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
    """The named optimizer over a model's (or a part's) trainable parameters; each uses those of the numbers it has.

    Every group keeps its parameters' names (``param_names``), the base rate (``base_lr``), which the schedule
    multiplies, and its own share of that (``lr_scale``; ``layer_decay`` and ``rates`` are ``parameter_groups``'s).
    Weight decay is decoupled (Loshchilov & Hutter 2019, Alg. 2: weights shrink before the step), except that Adam, SGD
    and RMSprop add it to the gradient and LAMB to the update. SGD uses Nesterov momentum (Sutskever et al. 2013).
    ``docs/optimizers.md`` has the equations.

    Raises:
        FieldguideError: an unknown optimizer, nothing to train, a library that is not there, a number that the
            optimizer cannot do with, or what ``parameter_groups`` refuses.
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
            sharded = any(hasattr(parameter, "to_local") for parameter in parameters)
            fused = (fused and not sharded) or None  # the kernel does not know DTensors (torch 2.15)
            sgd = optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=fused)
            if momentum:  # torch's fused kernel cannot begin with some parameters now and with others later (2.15)
                sgd.state.update({w: {"momentum_buffer": torch.zeros_like(w)} for w in parameters})
            return sgd
        case "rmsprop":  # torch has no fused kernel for this one and the next three
            return optim.RMSprop(groups, lr=lr, momentum=momentum, eps=eps, foreach=True)
        case "nadam":
            return optim.NAdam(groups, lr=lr, betas=betas, eps=eps, decoupled_weight_decay=True, foreach=True)
        case "radam":
            return optim.RAdam(groups, lr=lr, betas=betas, eps=eps, decoupled_weight_decay=True, foreach=True)
        case "adafactor":  # one tensor after the other: its point is to need little memory
            return optim.Adafactor(groups, lr=lr)
        case "muon":
            inner, outer = _split(groups, hidden_matrices(model))
            if not inner:
                raise FieldguideError(
                    f"optimizer: {type(model).__name__} has no matrix between its first and its last layer for muon "
                    'to move; use "adamw"'
                )
            adamw = optim.AdamW(outer, lr=lr, betas=betas, eps=eps, fused=fused)
            return Together(Muon(inner, lr=lr, momentum=momentum), adamw)
        case "lion":
            return _lion()(groups, lr=lr, betas=betas)
        case "lamb":
            return LAMB(groups, lr=lr, betas=betas, eps=eps)
        case "soap":
            return SOAP(groups, lr=lr, betas=betas, eps=eps)
        case "schedule_free":
            if not betas[0]:
                raise FieldguideError(
                    "optimizer: schedule_free mixes by betas[0], which is 0; set it above, such as 0.9"
                )
            return ScheduleFreeAdamW(groups, lr=lr, betas=betas, eps=eps)
        case _:
            raise unknown("optimizer", name, OPTIMIZERS)


def _split(groups: list[dict[str, Any]], matrices: set[nn.Parameter]) -> tuple[list[dict[str, Any]], ...]:
    """The groups with only these matrices, as far as they decay, and with all the rest; empty ones left out."""
    inner, outer = [], []
    for group in groups:
        chosen = {name for name, w in group["params"] if w in matrices and group["group"] == "decay"}
        for side, here in ((inner, True), (outer, False)):
            if params := [(name, w) for name, w in group["params"] if (name in chosen) is here]:
                side.append(group | {"params": params})
    return inner, outer


def _lion() -> Any:
    try:
        from pytorch_optimizer import Lion
    except ImportError:
        raise FieldguideError(
            'optimizer: "lion" comes from the library pytorch-optimizer; install fieldguide[optimizers]'
        ) from None
    return Lion


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

    def numbers(self) -> dict[str, list[dict[str, Any]]]:
        """What the recipe decided of each group."""
        return {
            part: [{name: group[name] for name in _NUMBERS if name in group} for group in optimizer.param_groups]
            for part, optimizer in self.items()
        }

    def retune(self, numbers: Mapping[str, list[dict[str, Any]]]) -> None:
        """Rates, decay and moments as ``numbers`` has them; what the steps have gathered stays.

        Raises:
            FieldguideError: they are of other groups of parameters.
        """
        for part, optimizer in self.items():
            for group, own in zip(optimizer.param_groups, numbers[part], strict=True):
                if group["param_names"] != own["param_names"]:
                    raise FieldguideError("optimizer: the parameters are grouped otherwise than in the saved states")
                for name in ("base_weight_decay", "base_momentum"):  # the plan takes them from the new numbers
                    group.pop(name, None)
                group.update(own)


def _laid_out_like(parameter: Tensor, value: Any) -> Any:
    # Fused kernels walk memory, not indices: beside a channels-last weight a contiguous moment would be read in the
    # wrong order, silently (torch 2.15).
    if isinstance(value, Tensor) and value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return value
