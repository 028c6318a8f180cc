"""``fieldguide.tune(model, example, tolerance)``: the fastest settings here that keep a network's answers."""

from fieldguide.profile.tuning.inference import tune
from fieldguide.profile.tuning.tuned import Row, Tuned, TunedModel

__all__ = ["Row", "Tuned", "TunedModel", "tune"]
