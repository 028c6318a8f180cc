"""How parameters move: groups, optimizers, schedules, clipping, averaging."""

from fieldguide.optim.averaging import EMA, SWA, Average, NoAverage, build_average
from fieldguide.optim.centralize import centralize_gradients
from fieldguide.optim.clip import (
    Clip,
    build_clip,
    clip_gradients,
    clip_units,
    clip_values,
    global_norm,
    non_finite_gradients,
)
from fieldguide.optim.groups import parameter_groups
from fieldguide.optim.lamb import LAMB
from fieldguide.optim.lookahead import Lookahead
from fieldguide.optim.muon import Muon
from fieldguide.optim.optimizers import OPTIMIZERS, Optimizers, build_optimizer, set_rate
from fieldguide.optim.schedule_free import ScheduleFreeAdamW
from fieldguide.optim.schedules import Plan, Schedule, build_plan, build_schedule, transformer_rate
from fieldguide.optim.soap import SOAP

__all__ = [
    "EMA",
    "LAMB",
    "OPTIMIZERS",
    "SOAP",
    "SWA",
    "Average",
    "Clip",
    "Lookahead",
    "Muon",
    "NoAverage",
    "Optimizers",
    "Plan",
    "Schedule",
    "ScheduleFreeAdamW",
    "build_average",
    "build_clip",
    "build_optimizer",
    "build_plan",
    "build_schedule",
    "centralize_gradients",
    "clip_gradients",
    "clip_units",
    "clip_values",
    "global_norm",
    "non_finite_gradients",
    "parameter_groups",
    "set_rate",
    "transformer_rate",
]
