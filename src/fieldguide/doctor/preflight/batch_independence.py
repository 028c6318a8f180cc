"""Does the answer for one sample depend on the others in its batch? In eval mode it must not."""

from collections.abc import Callable

from torch import Tensor, nn

from fieldguide.doctor.preflight.twin import Place, Twin, cut, rms
from fieldguide.doctor.records import Test


def batch_independence(twin: Twin) -> Test:
    place, x = twin.main_input()
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) and not m.track_running_stats for m in twin.model.modules()):
        return {"ok": None, "says": "a batch normalisation mixes samples by design"}
    n, out = len(x), twin.answer
    times = len(out) // n if out.ndim else 0
    if n < 4 or not times or len(out) != times * n or (out.ndim == 2 and out.shape[1] == n == len(out)):
        return {"ok": None, "says": "the output's first axis is not the batch"}
    if twin.wavers > 0:
        return {"ok": None, "says": "the output is random"}
    half = twin.output_of(cut(twin.batch, slice(0, n // 2)))  # what is no batch cannot be cut
    if half.shape != (n // 2 * times, *out.shape[1:]):
        return {"ok": None, "says": "the output's first axis is not the batch"}
    moved = _reached(twin, place, x, lambda out: parts(out, n), axis=0)
    if times > 1 and moved >= 1e-3:
        moved = min(moved, _reached(twin, place, x, lambda out: views(out, n), axis=0))
    if moved < 1e-3:
        return {"ok": True, "figure": moved, "says": "every sample is answered by itself"}
    shape = parts(out, n).shape
    second = len(shape) >= 3 and x.ndim >= 2 and shape[1] == x.shape[1] >= 2
    if second and _reached(twin, place, x, lambda out: parts(out, n), axis=1) < 1e-3:
        return {"ok": None, "says": "the batch seems to be the second axis"}
    return {
        "ok": False,
        "figure": moved,
        "says": f"changing one sample of {n} moves the outputs of others by {moved:.0%} of their size",
    }


def parts(out: Tensor, n: int) -> Tensor:
    """By sample, where an axis of their parts, as tokens, was joined to that of the samples for the loss."""
    return out if len(out) == n else out.unflatten(0, (n, -1))


def views(out: Tensor, n: int) -> Tensor:
    """By sample, where several batches, as two views of each, were put one behind the other."""
    return out.unflatten(0, (-1, n)).movedim(1, 0)


def _reached(twin: Twin, place: Place, x: Tensor, by_sample: Callable[[Tensor], Tensor], axis: int) -> float:
    """How far the outputs of all other places along an axis move when one is replaced, for two places."""
    out = by_sample(twin.answer)
    worst, scale = 0.0, rms(out - out.mean()) or 1.0
    for place_changed in (0, x.shape[axis] // 2):
        other = x.clone()
        source = (place_changed + 1) % x.shape[axis]
        new = x.select(axis, source)
        other.select(axis, place_changed).copy_(new * 2 if x.is_floating_point() else new)
        moved = (by_sample(twin.output((place, other))) - out).abs()
        moved.select(axis, place_changed).zero_()
        worst = max(worst, moved.max().item() / scale)
    return worst
