"""Depthwise convolutions in fp32 among products in bf16: oneDNN has no fast bf16 kernels for their gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fieldguide.profile.tuning.candidate import Arguments, Candidate, Choice, Subject, swap
from fieldguide.profile.tuning.precision import Autocast


@dataclass(frozen=True)
class Fp32Depthwise(Candidate):
    """Under autocast, convolutions of each channel by itself stay in 32 bits; they are a small part of the work."""

    def __str__(self) -> str:
        return "fp32 depthwise"

    def refusal(self, subject: Subject, chosen: Choice) -> str | None:
        if subject.device.type != "cpu":
            return "for processors"
        if not any(isinstance(setting, Autocast) for setting in chosen):
            return "nothing is in 16 bits"
        return None if any(map(_depthwise, subject.model.modules())) else "no depthwise convolution"

    def apply(self, model: nn.Module, arguments: Arguments) -> nn.Module:
        return swap(model, {module: _Fp32(module) for module in model.modules() if _depthwise(module)})


def _depthwise(module: nn.Module) -> bool:
    return type(module) is nn.Conv2d and 1 < module.groups == module.in_channels


class _Fp32(nn.Module):
    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.layer(x.float()).to(x.dtype)
