"""In which order the numbers of an image lie in memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fieldguide.profile.tuning.candidate import Arguments, Candidate, Choice, Subject


@dataclass(frozen=True)
class ChannelsLast(Candidate):
    """All channels of a pixel beside each other, as the fast kernels of convolutions want them."""

    def __str__(self) -> str:
        return "channels last"

    def refusal(self, subject: Subject, chosen: Choice) -> str | None:
        return None if subject.has(nn.Conv2d, nn.ConvTranspose2d) else "no convolution over images"

    def apply(self, model: nn.Module, arguments: Arguments) -> nn.Module:
        return model.to(memory_format=torch.channels_last)

    def given(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            x.to(memory_format=torch.channels_last) if isinstance(x, Tensor) and x.ndim == 4 else x for x in arguments
        )

    def recipe(self) -> Mapping[str, Any]:
        return {"memory_format": "channels_last"}
