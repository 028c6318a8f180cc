"""Fewer bits: the arithmetic of a network under autocast, or its weights and everything else in 16 bits."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from fieldguide.profile.tuning.candidate import Arguments, Candidate, Choice, Subject, floats_to

SHORT = {torch.bfloat16: "bf16", torch.float16: "fp16"}


def _refusal(dtype: torch.dtype, subject: Subject) -> str | None:
    if subject.dtype != torch.float32:
        return f"the network is in {str(subject.dtype).removeprefix('torch.')} already"
    if subject.device.type == "cuda":
        known = dtype == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
        return None if known else "this accelerator has no bf16"
    if subject.device.type == "cpu" and dtype == torch.float16:
        return "for accelerators"
    if subject.device.type == "cpu":
        known = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return None if known else "this processor has no instructions for bf16"
    return None


@dataclass(frozen=True)
class Autocast(Candidate):
    """Products and convolutions in 16 bits, sums and norms in 32 (Micikevicius et al. 2018, "Mixed Precision")."""

    dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        return f"{SHORT[self.dtype]} autocast"

    def refusal(self, subject: Subject, chosen: Choice) -> str | None:
        return _refusal(self.dtype, subject)

    def apply(self, model: nn.Module, arguments: Arguments) -> nn.Module:
        device = next((x.device.type for x in (*model.parameters(), *arguments)), "cpu")
        return Autocasting(model, device, self.dtype)

    def forward(self, device: torch.device) -> AbstractContextManager[Any]:
        return torch.autocast(device.type, self.dtype)

    def recipe(self) -> Mapping[str, Any]:
        return {"precision": SHORT[self.dtype]}


class Autocasting(nn.Module):
    """A network that runs under autocast, whoever calls it."""

    def __init__(self, network: nn.Module, device: str, dtype: torch.dtype):
        super().__init__()
        self.network, self.device, self.dtype = network, device, dtype

    def forward(self, *arguments: Any) -> Any:
        with torch.autocast(self.device, self.dtype):
            return self.network(*arguments)


@dataclass(frozen=True)
class Weights(Candidate):
    """Weights, inputs and all between them in 16 bits: half the memory to read."""

    dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        return f"{SHORT[self.dtype]} weights"

    def refusal(self, subject: Subject, chosen: Choice) -> str | None:
        return _refusal(self.dtype, subject)

    def apply(self, model: nn.Module, arguments: Arguments) -> nn.Module:
        return model.to(self.dtype)

    def given(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return floats_to(self.dtype, arguments)


@dataclass(frozen=True)
class Products(Candidate):
    """PyTorch's leave to compute products of fp32 by other means.

    "high" is TF32, with 10 bits of mantissa, on NVIDIA's tensor cores. "medium" gives the products of a processor to
    oneDNN, which computes them in bf16 where it has units for matrices of that type and in fp32 elsewhere: then only
    the order of the sums is another, and often the speed.
    """

    level: Literal["high", "medium"]

    def __str__(self) -> str:
        return {"high": "tf32 products", "medium": "oneDNN products"}[self.level]

    def refusal(self, subject: Subject, chosen: Choice) -> str | None:
        if subject.dtype != torch.float32:
            return "nothing is in fp32"
        if self.level == "medium":
            known = subject.device.type == "cpu" and torch.backends.mkldnn.is_available()
            return None if known else "oneDNN is for processors"
        known = subject.device.type == "cuda" and torch.cuda.get_device_capability(subject.device) >= (8, 0)
        return None if known else "for NVIDIA's accelerators from Ampere"

    def around(self) -> AbstractContextManager[None]:
        return products(self.level)

    def recipe(self) -> Mapping[str, Any]:
        return {"matmul_precision": self.level}


@contextmanager
def products(level: str) -> Iterator[None]:
    """Inside the ``with``, products of fp32 by PyTorch's means of this level; then as before."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(level)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
