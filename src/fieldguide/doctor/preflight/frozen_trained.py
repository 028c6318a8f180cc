"""Were frozen weights ever trained? Torch's initial values are uniform within 1/√fan_in; training leaves that range."""

import math

from torch import Tensor, nn

from fieldguide.doctor.facts import listing
from fieldguide.doctor.preflight.twin import Twin
from fieldguide.doctor.records import Test

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def frozen_trained(twin: Twin) -> Test:
    frozen = sum(p.numel() for p in twin.model.parameters() if not p.requires_grad)
    total = sum(p.numel() for p in twin.model.parameters())
    if frozen <= total / 2:
        return {"ok": None, "says": "less than half of the network is frozen"}
    layers = [(name, module.weight) for name, module in twin.model.named_modules() if isinstance(module, _LAYERS)]
    fresh = [(name, weight) for name, weight in layers if not weight.requires_grad and at_initial_values(weight)]
    share = sum(weight.numel() for _, weight in fresh) / frozen
    if share < 0.5:
        return {"ok": True, "figure": share, "says": "the frozen weights have been trained"}
    names = listing([name for name, _ in fresh])
    return {
        "ok": False,
        "figure": share,
        "says": f"{share:.0%} of the frozen weights are still at random initial values: {names}",
    }


def at_initial_values(weight: Tensor) -> bool:
    """Every one of at least 100 entries is within ±1/√fan_in, and the largest reach the border."""
    bound = 1 / math.sqrt(weight[0].numel())
    largest = weight.detach().abs().max().item()
    return weight.numel() >= 100 and 0.9 * bound < largest <= bound * (1 + 1e-6)
