"""Is the network nothing but one affine map? f(a + b) − f(a) − f(b) + f(0) = 0 and f(−3a) = −3 f(a) + 4 f(0).

Judged where the last layer with weights ends, so that a sigmoid or softmax after it hides nothing.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fieldguide.doctor.preflight.twin import Place, Twin, rms
from fieldguide.doctor.records import Test

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def affine(twin: Twin) -> Test:
    place, x = twin.main_input()
    if not x.is_floating_point() or len(x) < 2:
        return {"ok": None, "says": "the input is not of floating point"}
    called: list[tuple[str, Any, Any, Any]] = twin.modules_called()
    calls = [call for call in called if isinstance(call[1], _LAYERS) and call[1].weight.requires_grad]
    if len({name for name, *_ in calls}) < 2 or calls[-1][2][0].data_ptr() == x.data_ptr():
        return {"ok": None, "says": "no two trained layers in a row"}
    widths = [len(layer.weight) for _, layer, *_ in calls]
    if max(widths[:-1]) < min(calls[0][1].weight[0].numel(), widths[-1]):
        return {"ok": None, "says": "every layer in between is narrower than both ends: a map of low rank on purpose"}
    a, b = x, x.roll(1, 0)
    at_a, at_b, at_0 = (_last(twin, place, value) for value in (a, b, torch.zeros_like(x)))
    scale = rms(at_a - at_0)
    if scale <= 1e-6 * rms(at_a):
        return {"ok": None, "says": "the output does not depend on the input"}
    sum_off = rms(_last(twin, place, a + b) - at_a - at_b + at_0) / scale
    flip_off = rms(_last(twin, place, -3 * a) + 3 * at_a - 4 * at_0) / scale
    figure = max(sum_off, flip_off)
    if figure > 1e-4:
        return {"ok": True, "figure": figure, "says": "the network is not affine"}
    return {"ok": False, "figure": figure, "says": "the whole network is one affine map: f(a + b) = f(a) + f(b) − f(0)"}


def _last(twin: Twin, place: Place, x: Tensor) -> Tensor:
    outputs: list[Any] = [out for _, module, _, out in twin.modules_called((place, x)) if isinstance(module, _LAYERS)]
    return outputs[-1].double()
