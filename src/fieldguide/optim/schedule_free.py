"""Schedule-free AdamW: the average that a falling rate would give, at a constant rate and without knowing the end."""

from typing import Any

import torch
from torch import (
    Tensor,
    _foreach_add,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_add_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_addcmul_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_div,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_lerp_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_mul,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_mul_,  # pyright: ignore[reportPrivateImportUsage]
    _foreach_sqrt_,  # pyright: ignore[reportPrivateImportUsage]
)

from fieldguide.optim.rule import Rule, State


class ScheduleFreeAdamW(Rule):
    """Gradients at ``y = (1 − β₁)z + β₁x``, steps of ``z``, weights ``x`` the average of ``z`` (Defazio et al. 2024).

    With d = g / (√v̂ + ε) + λy: ``z ← z − lr·d`` and ``x ← (1 − c)x + cz``, c = r²/Σr², r the largest rate so far
    (Alg. 1, with v̂ and r as in the authors' code). The model holds y while it trains; :meth:`averaged` gives x, which
    is what counts.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def start(self, parameter: Tensor) -> State:
        return {"z": parameter.clone(), "square": torch.zeros_like(parameter), "rate": 0.0, "total": 0.0}

    def change(self, group: State, parameters: list[Tensor], gradients: list[Tensor], states: list[State]) -> None:
        (mix, second), rate = group["betas"], group["lr"]
        z, squares = [state["z"] for state in states], [state["square"] for state in states]
        for state in states:
            state["rate"] = max(state["rate"], rate)
            state["total"] += state["rate"] ** 2
        parts = [state["rate"] ** 2 / state["total"] if state["total"] else 0.0 for state in states]
        _foreach_mul_(squares, second)
        _foreach_addcmul_(squares, gradients, gradients, 1 - second)
        roots = _foreach_div(squares, [1 - second ** state["step"] for state in states])
        _foreach_sqrt_(roots)
        _foreach_add_(roots, group["eps"])
        directions = _foreach_add(_foreach_div(gradients, roots), parameters, alpha=group["weight_decay"])
        # The same as moving x and z and mixing them anew, without x in memory.
        _foreach_lerp_(parameters, z, parts)
        _foreach_add_(parameters, _foreach_mul(directions, [rate * (mix * (1 - part) - 1) for part in parts]))
        _foreach_add_(z, directions, alpha=-rate)

    @torch.no_grad()
    def averaged(self) -> dict[Tensor, Tensor]:
        """x for each parameter that has moved; the parameters themselves stay y."""
        pairs = [
            (parameter, self.state[parameter]["z"], group["betas"][0])
            for group in self.param_groups
            for parameter in group["params"]
            if self.state.get(parameter)
        ]
        return {parameter: parameter.lerp(z, 1 - 1 / mix) for parameter, z, mix in pairs}
