"""Muon: momentum whose matrices are made orthogonal, so that a step turns every direction by as much."""

from typing import Any

import torch
from torch import Tensor, nn

from fieldguide.optim.groups import layers
from fieldguide.optim.rule import Rule, State

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: steepest at zero, so five rounds are enough


class Muon(Rule):
    """``b ← μb + (1 − μ)g``, ``w ← (1 − lr·λ)w − lr · 0.2·√max(rows, columns) · orthogonal((1 − μ)g + μb)``.

    Jordan et al. 2024, "Muon"; decay and the factor, which gives a step the size of AdamW's so that its rates serve
    here too, from Liu et al. 2025, "Muon is Scalable for LLM Training", §2.2. A convolution's kernel is the matrix
    (outputs, inputs · height · width). Torch's own Muon takes no kernels and computes in bf16, which CPUs without bf16
    arithmetic emulate many times slower; this one does so on accelerators only, and in the weights' format elsewhere.
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.01
    ):
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    def start(self, parameter: Tensor) -> State:
        return {"momentum": torch.zeros_like(parameter)}

    def change(self, group: State, parameters: list[Tensor], gradients: list[Tensor], states: list[State]) -> None:
        momentum, rate = group["momentum"], group["lr"]
        for parameter, gradient, state in zip(parameters, gradients, states, strict=True):
            state["momentum"].lerp_(gradient, 1 - momentum)
            update = orthogonal(gradient.lerp(state["momentum"], momentum).flatten(1))
            parameter.mul_(1 - rate * group["weight_decay"])
            parameter.add_(update.view(parameter.shape), alpha=-rate * 0.2 * max(update.shape) ** 0.5)


def orthogonal(matrix: Tensor, rounds: int = 5) -> Tensor:
    """The nearest orthogonal matrix ``UVᵀ`` of ``USVᵀ``, roughly: singular values end between 0.7 and 1.2.

    Newton–Schulz in fifth degree (Jordan et al. 2024): ``X ← aX + (bA + cA²)X`` with ``A = XXᵀ``.
    """
    a, b, c = _COEFFICIENTS
    x = matrix.bfloat16() if matrix.is_cuda and matrix.dtype is torch.float32 else matrix
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(rounds):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x if wide else x.T).to(matrix.dtype)


def hidden_matrices(model: nn.Module) -> set[nn.Parameter]:
    """What Muon is made for: weights of the linear maps and convolutions between the first and the last layer.

    The first layer, embeddings, the head (modules named ``head``; without one and without embeddings that the output
    may share, the last layer) and kernels of several groups, which are many small matrices, are left out.
    """
    order = layers(model)
    heads = [name for name, _ in model.named_parameters() if "head" in name.split(".")]
    embeds = any(isinstance(module, nn.Embedding) for module in model.modules())
    outer = {*order[0], *(heads or ([] if embeds else order[-1]))}
    split = {id(m.weight) for m in model.modules() if getattr(m, "groups", 1) != 1 and hasattr(m, "weight")}
    return {w for name, w in model.named_parameters() if w.ndim > 1 and name not in outer and id(w) not in split}
