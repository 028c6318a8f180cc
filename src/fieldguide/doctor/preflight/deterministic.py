"""Does the network in eval mode say the same thing twice?"""

from fieldguide.doctor.preflight.twin import Twin, rms
from fieldguide.doctor.records import Test


def deterministic(twin: Twin) -> Test:
    first = twin.output()
    off = rms(twin.output() - first)
    if off == 0:
        return {"ok": True, "figure": 0.0, "says": "two forward passes in eval mode agree"}
    return {"ok": False, "figure": off, "says": f"two forward passes in eval mode differ by {off:.2g}"}
