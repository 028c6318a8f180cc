"""Number formats of the forward pass: fp32, bf16 autocast, or fp16 autocast with a dynamic loss scale."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from fieldguide.errors import FieldguideError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SMALLEST_SCALE = 2.0**-10


class Precision:
    """Forward in the chosen format, parameters and gradients in fp32 (Micikevicius et al. 2018, "Mixed Precision").

    bf16 has fp32's range and needs no scaling. fp16 multiplies the loss so that small gradients do not vanish; a step
    whose gradients overflow is skipped and halves the factor, 2,000 good ones in a row double it.

    Raises:
        FieldguideError: this device cannot compute in the format (found out by a small forward and backward pass).
    """

    def __init__(self, name: Literal["fp32", "bf16", "fp16"], device: torch.device):
        self.name, self.device = name, device
        self.dtype = _DTYPES.get(name)
        self.scaler = GradScaler(device.type, enabled=name == "fp16")
        if self.dtype is not None:
            _try_out(name, self.dtype, device)

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of the forward pass and the loss; the backward pass stays outside."""
        return torch.autocast(self.device.type, self.dtype) if self.dtype else nullcontext()

    def backward(self, loss: Tensor, share: float, inputs: list[nn.Parameter] | None) -> None:
        """Adds ``share`` times the loss's gradient to ``inputs`` (all leaves for None), scaled where fp16 needs it."""
        scaled = self.scaler.scale(loss)
        scaled.backward(None if share == 1 else torch.full_like(scaled, share), inputs=inputs)

    def unscale(self, optimizer: Optimizer) -> None:
        """Brings the gradients to their true size; before anything looks at them."""
        self.scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> None:
        """The optimizer's step, or none when fp16 gradients overflowed; then moves the loss scale."""
        self.scaler.step(optimizer)
        self.scaler.update()

    def forget(self) -> None:
        """A step that was begun is not taken: gradients can be unscaled anew, and the loss scale stays."""
        if self.scaler.is_enabled():
            state = self.scaler.state_dict()
            self.scaler = GradScaler(self.device.type)
            self.scaler.load_state_dict(state)

    @property
    def may_overflow(self) -> bool:
        """True while a gradient that is not finite only means that the loss scale is still too large."""
        return self.name == "fp16" and self.scaler.get_scale() > _SMALLEST_SCALE

    def state_dict(self) -> dict[str, Any]:
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            self.scaler.load_state_dict(state)


def _try_out(name: str, dtype: torch.dtype, device: torch.device) -> None:
    try:
        with torch.enable_grad(), torch.autocast(device.type, dtype):
            images = torch.ones(2, 1, 4, 4, device=device)
            kernel = torch.ones(2, 1, 3, 3, device=device, requires_grad=True)
            weight = torch.ones(3, 8, device=device, requires_grad=True)
            maps = nn.functional.conv2d(images, kernel).flatten(1)
            loss = nn.functional.linear(maps, weight).float().logsumexp(1).mean()
        loss.backward()
    except RuntimeError as problem:
        reason = str(problem).splitlines()[0]
        raise FieldguideError(
            f'precision = "{name}" does not work on this {device.type} ({reason}); use "fp32"'
        ) from None
