"""Observation of any PyTorch training from outside; see :class:`Observer`."""

from fieldguide.doctor.observe.observer import Observer

__all__ = ["Observer"]
