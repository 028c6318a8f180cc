"""What a training is made of: networks, layers, parameters and optimizers, as plain facts."""

import gc
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fieldguide.doctor.observe.layers import leaves

Optimizer = torch.optim.Optimizer
MOST = 2000
_NORMS = (nn.modules.batchnorm._BatchNorm,)
_DROPS = (nn.modules.dropout._DropoutNd,)


def model_facts(models: Sequence[nn.Module], players: int, training: bool) -> dict[str, Any]:
    parameters = list({id(p): p for model in models for p in model.parameters()}.values())
    modules = [module for model in models for module in model.modules()]
    return {
        "type": ", ".join(type(model).__name__ for model in models),
        "parameters": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "training": training,
        "device": parameters[0].device.type if parameters else "",
        "attention": [[*sizes] for m in modules if (sizes := _attention(m)) is not None],
        "has_dropout": any(_dropout(m) for m in modules),
        "has_batch_norm": any(isinstance(m, _NORMS) for m in modules),
        "batch_statistics": any(isinstance(m, _NORMS) and (m.training or not m.track_running_stats) for m in modules),
        "models": players,
    }


def _dropout(module: nn.Module) -> float | None:
    """The share that it drops; None where it has no say in that."""
    if isinstance(module, _DROPS):
        return float(module.p)
    return float(module.dropout) if isinstance(module, nn.RNNBase) and module.num_layers > 1 else None


def _attention(module: nn.Module) -> tuple[int, int] | None:
    """Width and number of heads, as PyTorch's attention and the one here name them."""
    heads, width = getattr(module, "num_heads", None), getattr(module, "embed_dim", getattr(module, "d_model", None))
    return (width, heads) if isinstance(heads, int) and isinstance(width, int) else None


def alive() -> list[Optimizer]:
    """Every optimizer that there is."""
    kinds = {Optimizer}
    while more := {below for kind in kinds for below in kind.__subclasses__()} - kinds:
        kinds |= more
    return [thing for thing in gc.get_objects() if type(thing) in kinds]


def parameters_of(optimizer: Optimizer) -> set[int]:
    """Identities of what it learns."""
    return {id(p) for group in getattr(optimizer, "param_groups", ()) for p in group["params"]}


def wraps(optimizer: Optimizer) -> bool:
    """Whether it hands its steps to an optimizer inside it, as those of accelerate and Lightning do."""
    return any(isinstance(value, Optimizer) for value in vars(optimizer).values())


def players(optimizers: Sequence[Optimizer]) -> int:
    """Optimizers that have no parameter in common: two for a GAN, one for two trainings of one network in turn."""
    groups: list[set[int]] = []
    for optimizer in optimizers:
        own = parameters_of(optimizer)
        joined = [group for group in groups if not group.isdisjoint(own)]
        groups = [group for group in groups if group.isdisjoint(own)] + [own.union(*joined)]
    return max(1, len(groups))


def learned_by(optimizers: Iterable[Optimizer]) -> list[weakref.ref[Tensor]]:
    """The parameters that they learn, not kept alive."""
    return [weakref.ref(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]


def layer_facts(models: Sequence[nn.Module]) -> list[dict[str, Any]]:
    facts = []
    for model in models:
        for name, module in model.named_modules():
            if next(module.children(), None) is None and len(facts) < MOST:
                own = list(module.parameters(recurse=False))
                fact: dict[str, Any] = {
                    "name": name or type(module).__name__,
                    "type": type(module).__name__,
                    "parameters": sum(p.numel() for p in own),
                    "trainable": any(p.requires_grad for p in own),
                }
                if (share := _dropout(module)) is not None:
                    fact["p"] = share
                facts.append(fact)
    return facts


def tensor_facts(models: Sequence[nn.Module], optimizers: Iterable[Optimizer]) -> dict[str, dict[str, Any]]:
    """Read after the first backward pass and before the first step."""
    learned = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    facts: dict[str, dict[str, Any]] = {}
    for model in models:
        owners = {id(p): name for name, module in leaves(model) for p in module.parameters(recurse=False)}
        for name, parameter in model.named_parameters():
            if len(facts) >= MOST:
                return facts
            facts[name] = {
                "shape": list(parameter.shape),
                "layer": owners.get(id(parameter), ""),
                "trainable": parameter.requires_grad,
                "in_optimizer": id(parameter) in learned,
                "gradient": _gradient(parameter),
                **_values(parameter),
            }
    return facts


def _gradient(parameter: nn.Parameter) -> str:
    gradient = parameter.grad
    if gradient is None:
        return "missing"
    values = gradient._values() if gradient.is_sparse else gradient
    return "there" if bool(values.any()) else "zero"


@torch.no_grad()
def _values(parameter: Tensor) -> dict[str, Any]:
    if parameter.ndim < 2 or parameter.numel() < 4 or not parameter.is_floating_point():
        return {}
    rows = parameter.detach().flatten(1)[:256, :4096]
    equal = len(rows) > 1 and bool((rows == rows[:1]).all())
    return {"equal_rows": equal, "std": float(rows.float().std())}


def optimizer_facts(optimizers: Iterable[Optimizer]) -> list[dict[str, Any]]:
    facts = []
    for optimizer in optimizers:
        group = max(optimizer.param_groups, key=lambda group: sum(p.numel() for p in group["params"]))
        fact: dict[str, Any] = {
            "type": type(optimizer).__name__,
            "parameters": sum(p.numel() for g in optimizer.param_groups for p in g["params"]),
        }
        for name in ("lr", "weight_decay", "momentum", "eps"):
            if isinstance(group.get(name), int | float | Tensor):
                fact[name] = float(group[name])
        if isinstance(group.get("betas"), tuple | list):
            fact["betas"] = [float(beta) for beta in group["betas"]]
        facts.append(fact)
    return facts
