"""SOAP: Adam in the directions in which a matrix's gradients vary, Shampoo's eigenbasis."""

from typing import Any

import torch
from torch import Tensor

from fieldguide.optim.rule import Rule, State

LARGEST = 10_000
"""Axes longer than this (vocabularies) are not turned: their basis would not fit."""


class SOAP(Rule):
    """AdamW on the gradient turned into the eigenbasis of ``E[GGᵀ]`` of each axis (Vyas et al. 2024, Alg. 3).

    Vectors are not turned, which is AdamW. Every ``every``-th step one power iteration and a QR bring the bases up to
    date, most important directions first; the second moment moves with its directions. As in the authors' code, the
    first gradient finds the bases and moves nothing.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float = 3e-3,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        every: int = 10,
    ):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "every": every})

    def start(self, parameter: Tensor) -> State:
        turned = [parameter.ndim > 1 and length <= LARGEST for length in parameter.shape]
        outer = [parameter.new_zeros(n, n) if turn else None for n, turn in zip(parameter.shape, turned, strict=True)]
        moments = {"mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
        return moments | {"outer": outer, "bases": [None] * parameter.ndim}

    def change(self, group: State, parameters: list[Tensor], gradients: list[Tensor], states: list[State]) -> None:
        for parameter, gradient, state in zip(parameters, gradients, states, strict=True):
            if state["step"] > 1:
                _move(group, parameter, gradient, state)
            _gather(gradient, state, group["betas"][1])
            if state["step"] == 1:
                state["bases"] = [None if outer is None else _eigenbasis(outer) for outer in state["outer"]]
            elif (state["step"] - 1) % group["every"] == 0:
                _refresh(state)


def _move(group: State, parameter: Tensor, gradient: Tensor, state: State) -> None:
    (first, second), rate, step = group["betas"], group["lr"], state["step"] - 1
    state["mean"].lerp_(gradient, 1 - first)
    state["square"].lerp_(_turned(gradient, state["bases"]).square(), 1 - second)
    root = (state["square"] / (1 - second**step)).sqrt().add_(group["eps"])
    update = _turned(state["mean"] / (1 - first**step), state["bases"]) / root
    parameter.mul_(1 - rate * group["weight_decay"])
    parameter.add_(_turned(update, [None if basis is None else basis.T for basis in state["bases"]]), alpha=-rate)


def _turned(tensor: Tensor, bases: list[Tensor | None]) -> Tensor:
    """The tensor in the coordinates of the bases, axis by axis; with the transposed ones it comes back."""
    tensor = tensor.contiguous()  # matrix products depend on the layout in the last bit, and a resumed run must not
    for axis, basis in enumerate(bases):
        if basis is not None:
            tensor = (tensor.movedim(axis, -1) @ basis).movedim(-1, axis)
    return tensor


def _gather(gradient: Tensor, state: State, decay: float) -> None:
    for axis, outer in enumerate(state["outer"]):
        if outer is not None:
            rows = gradient.contiguous().movedim(axis, 0).flatten(1)
            outer.lerp_(rows @ rows.T, 1 - decay)


def _eigenbasis(outer: Tensor) -> Tensor:
    return torch.linalg.eigh(_wide(outer))[1].flip(1).to(outer.dtype).contiguous()


def _refresh(state: State) -> None:
    for axis, (outer, basis) in enumerate(zip(state["outer"], state["bases"], strict=True)):
        if outer is not None:
            product = outer @ basis
            order = (basis * product).sum(0).argsort(descending=True, stable=True)
            state["square"] = state["square"].index_select(axis, order)
            state["bases"][axis] = torch.linalg.qr(_wide(product[:, order]))[0].to(outer.dtype).contiguous()


def _wide(matrix: Tensor) -> Tensor:
    """Half precision has no decompositions."""
    return matrix if matrix.dtype is torch.float64 else matrix.float()
