"""Batch norms of trained statistics are affine maps, so the convolution or product before them can do their work."""

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from fieldguide.profile.tuning.candidate import Arguments, Candidate, Choice, Subject, swap
from fieldguide.profile.tuning.pairs import pairs

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Folded(Candidate):
    """w ← γ/√(σ² + ε) · w, b ← γ/√(σ² + ε) · (b − μ) + β for each batch norm after a convolution or linear layer."""

    def __str__(self) -> str:
        return "folded norms"

    def refusal(self, subject: Subject, chosen: Choice) -> str | None:
        return None if subject.has(*NORMS) else "no batch norm"

    def apply(self, model: nn.Module, arguments: Arguments) -> nn.Module:
        new: dict[nn.Module, nn.Module] = {}
        for layer, norm in pairs(model, arguments).items():
            if not isinstance(norm, _BatchNorm) or type(norm) not in NORMS or norm.running_var is None:
                continue
            if isinstance(layer, CONVOLUTIONS):
                new |= {layer: fuse_conv_bn_eval(layer, norm), norm: nn.Identity()}
            elif type(layer) is nn.Linear:
                new |= {layer: fuse_linear_bn_eval(layer, norm), norm: nn.Identity()}
        return swap(model, new)
