"""Training any ``nn.Module``. Names load on first use: reading a recipe does not import torch."""

from importlib import import_module

_HOME = {
    "fit": "fieldguide.train.fitting",
    "Run": "fieldguide.train.fitting",
    "Stopped": "fieldguide.train.failures",
    "Diverged": "fieldguide.train.failures",
    "Loop": "fieldguide.train.loop",
    "Callback": "fieldguide.train.callbacks",
    "TrainingWarning": "fieldguide.train.callbacks",
    "RateRange": "fieldguide.train.range_test",
    "lr_range_test": "fieldguide.train.range_test",
    "Recipe": "fieldguide.train.recipe",
    "RunFolder": "fieldguide.train.run",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'fieldguide.train' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
