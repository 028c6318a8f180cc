"""Does the output notice the input? Its deviation between samples over its size."""

from fieldguide.doctor.preflight.twin import Twin, rms
from fieldguide.doctor.records import Test


def input_matters(twin: Twin) -> Test:
    out = twin.answer
    if out.ndim < 2 or len(out) < 4 or not rms(out):
        return {"ok": None, "says": "no output for every sample"}
    figure = rms(out - out.mean(0)) / rms(out)
    says = f"the output deviates by {figure:.2g} of its size between samples"
    return {"ok": figure > 1e-3, "figure": figure, "says": says}
