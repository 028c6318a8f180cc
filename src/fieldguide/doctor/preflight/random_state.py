"""Generators that stand afterwards where they stood."""

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever is drawn inside, the generators of Python, NumPy and torch stand where they stood afterwards."""
    numpy = sys.modules.get("numpy")
    plain, array = random.getstate(), numpy.random.get_state() if numpy else None
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(plain)
        if numpy:
            numpy.random.set_state(array)
