"""How parameters move: groups, optimizers, schedules, clipping, averaging."""

from fieldguide.optim.averaging import EMA, NoAverage, build_average
from fieldguide.optim.clip import clip_gradients, global_norm, non_finite_gradients
from fieldguide.optim.groups import parameter_groups
from fieldguide.optim.optimizers import Optimizers, build_optimizer, set_rate
from fieldguide.optim.schedules import Schedule, build_schedule, constant, cosine, linear

__all__ = [
    "EMA",
    "NoAverage",
    "Optimizers",
    "Schedule",
    "build_average",
    "build_optimizer",
    "build_schedule",
    "clip_gradients",
    "constant",
    "cosine",
    "global_norm",
    "linear",
    "non_finite_gradients",
    "parameter_groups",
    "set_rate",
]
