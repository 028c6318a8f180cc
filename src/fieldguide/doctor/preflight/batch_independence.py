"""Does the answer for one sample depend on the others in its batch? In eval mode it must not."""

import torch
from torch import Tensor, nn

from fieldguide.doctor.preflight.twin import Place, Twin, cut, rms
from fieldguide.doctor.records import Test


def batch_independence(twin: Twin) -> Test:
    place, x = twin.main_input()
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) and not m.track_running_stats for m in twin.model.modules()):
        return {"ok": None, "says": "a batch normalisation mixes samples by design"}
    out = twin.output()
    n = len(x)
    if n < 4 or out.ndim < 1 or len(out) != n or (out.ndim == 2 and out.shape[1] == n):
        return {"ok": None, "says": "the output's first axis is not the batch"}
    if rms(twin.output() - out) > 0:
        return {"ok": None, "says": "the output is random"}
    with torch.no_grad():
        half = twin.replay.output(twin.model, cut(twin.batch, slice(0, n // 2)))  # what is no batch cannot be cut
    if half.shape != (n // 2, *out.shape[1:]):
        return {"ok": None, "says": "the output's first axis is not the batch"}
    moved = _reached(twin, place, x, out, axis=0)
    if moved < 1e-3:
        return {"ok": True, "figure": moved, "says": "every sample is answered by itself"}
    second = out.ndim >= 3 and x.ndim >= 2 and out.shape[1] == x.shape[1] >= 2
    if second and _reached(twin, place, x, out, axis=1) < 1e-3:
        return {"ok": None, "says": "the batch seems to be the second axis"}
    return {
        "ok": False,
        "figure": moved,
        "says": f"changing one sample of {n} moves the outputs of others by {moved:.0%} of their size",
    }


def _reached(twin: Twin, place: Place, x: Tensor, out: Tensor, axis: int) -> float:
    """How far the outputs of all other places along an axis move when one is replaced, for two places."""
    worst, scale = 0.0, rms(out - out.mean()) or 1.0
    for place_changed in (0, x.shape[axis] // 2):
        other = x.clone()
        source = (place_changed + 1) % x.shape[axis]
        new = x.select(axis, source)
        other.select(axis, place_changed).copy_(new * 2 if x.is_floating_point() else new)
        moved = (twin.output((place, other)) - out).abs()
        moved.select(axis, place_changed).zero_()
        worst = max(worst, moved.max().item() / scale)
    return worst
