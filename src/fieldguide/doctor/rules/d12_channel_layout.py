"""D12 channel-layout: images reach the first convolution with their channels last.

What it looks for: inputs (n, h, w, c) with 1, 3 or 4 channels at the end, and a first convolution that takes h for
channels.
Why it matters: the kernels slide over columns and channels; nothing that holds for images holds.
Usual causes: numpy or PIL arrays without ToTensor; a convolution widened until the error went away.
Known false alarms: a network that moves the axis itself has a convolution of c channels, and is not named.
Fix: x.permute(0, 3, 1, 2).
"""

import re

from fieldguide.doctor.facts import error, weights
from fieldguide.doctor.finding import Fix, Rule, Sign, exact
from fieldguide.doctor.history import History

_CHANNELS = re.compile(r"to have (\d+) channels, but got (\d+) channels")


def judge(history: History) -> Sign | None:
    shape = history.fact("inputs", "shape") or []
    crash = _CHANNELS.search(error(history))
    if crash and len(shape) == 4 and shape[3] == int(crash[1]):
        return Sign(f"images of shape {tuple(shape)} reach a convolution of {crash[1]} channels", "(n, c, h, w)")
    kernels = [kernel for _, kernel in weights(history) if len(kernel) == 4]
    if len(shape) == 4 and kernels and shape[3] in {1, 3, 4} and kernels[0][1] == shape[1] > 4:
        return Sign(f"images of shape {tuple(shape)} reach a convolution of {shape[1]} channels", "(n, c, h, w)")
    return None


RULE = Rule(
    code="D12",
    slug="channel-layout",
    judge=judge,
    severity="critical",
    fixes=(Fix("Move the channels: x.permute(0, 3, 1, 2)", "channels first"),),
    refute="The second axis of the input is the number of channels.",
    **exact("setup", "end"),
)
