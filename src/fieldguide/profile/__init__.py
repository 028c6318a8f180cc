"""``fieldguide.profile(model, example)``: what a network costs on this machine, in time, memory and FLOPs.

Takes any ``nn.Module``. The room has the name of its function, so the module is the function: calling it is
:func:`fieldguide.profile.measuring.profile`.
"""

import sys
from types import ModuleType

from fieldguide.profile.growth import Complexity, Growth, complexity
from fieldguide.profile.layers import Layer, LayerTable, layer_table
from fieldguide.profile.measuring import BatchTime, LayerTime, Profile, profile

__all__ = [
    "BatchTime",
    "Complexity",
    "Growth",
    "Layer",
    "LayerTable",
    "LayerTime",
    "Profile",
    "complexity",
    "layer_table",
    "profile",
]


class _Callable(ModuleType):
    """Once imported, a room hides a function of its name in the package above, so it answers in its place."""

    __call__ = staticmethod(profile)


sys.modules[__name__].__class__ = _Callable
