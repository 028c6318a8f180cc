"""LAMB: Adam whose step is, layer by layer, in proportion to the layer's weights, for very large batches."""

from typing import Any

import torch
from torch import (
    Tensor,
    _foreach_add_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_addcmul_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_div,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_div_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_lerp_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_mul_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_norm,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_sqrt_,  # pyright: ignore[reportPrivateImportUsage]
)

from fieldguide.optim.rule import Rule, State


class LAMB(Rule):
    """``u = m̂ / (√v̂ + ε) + λw``, ``w ← w − lr · ‖w‖ / ‖u‖ · u`` with norms over one tensor (You et al. 2020, Alg. 2).

    φ is the identity, and the ratio is 1 where a norm is 0. As the authors prescribe, what does not decay (groups
    named ``no_decay``: norms, biases, embeddings) has no ratio either and moves as with Adam.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def start(self, parameter: Tensor) -> State:
        return {"mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}

    def change(self, group: State, parameters: list[Tensor], gradients: list[Tensor], states: list[State]) -> None:
        first, second = group["betas"]
        means, squares = [state["mean"] for state in states], [state["square"] for state in states]
        _foreach_lerp_(means, gradients, 1 - first)
        _foreach_mul_(squares, second)
        _foreach_addcmul_(squares, gradients, gradients, 1 - second)
        updates = _foreach_div(means, [1 - first ** state["step"] for state in states])
        roots = _foreach_div(squares, [1 - second ** state["step"] for state in states])
        _foreach_sqrt_(roots)
        _foreach_add_(roots, group["eps"])
        _foreach_div_(updates, roots)
        _foreach_add_(updates, parameters, alpha=group["weight_decay"])
        if group.get("group") != "no_decay":
            sizes, steps = torch.stack(_foreach_norm(parameters)), torch.stack(_foreach_norm(updates))
            ratios = torch.where((sizes > 0) & (steps > 0), sizes / steps, 1.0)
            _foreach_mul_(updates, list(ratios.unbind()))
        _foreach_add_(parameters, updates, alpha=-group["lr"])
