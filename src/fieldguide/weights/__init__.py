"""Public checkpoints in and out of our networks: exact, reversible, and never more than data.

``load_weights(model, source)`` finds the layout from the names, ``export_weights(model, layout)`` is its inverse. The
names live in one table per family, ``weights/<family>.py``.
"""

from fieldguide.weights.exporting import export_weights, save_weights
from fieldguide.weights.loading import Report, load_weights

__all__ = ["Report", "export_weights", "load_weights", "save_weights"]
