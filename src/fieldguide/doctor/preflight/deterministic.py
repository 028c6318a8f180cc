"""Does the network in eval mode say the same thing twice?"""

from fieldguide.doctor.preflight.twin import Twin
from fieldguide.doctor.records import Test


def deterministic(twin: Twin) -> Test:
    if twin.wavers == 0:
        return {"ok": True, "figure": 0.0, "says": "two forward passes in eval mode agree"}
    says = f"two forward passes in eval mode differ by {twin.wavers:.2g}"
    return {"ok": False, "figure": twin.wavers, "says": says}
