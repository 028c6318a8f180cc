"""Where 358 healthy trainings lie, the middle 80 %; see ``benchmarks/doctor/bands.py``."""

Band = tuple[tuple[float, float], ...]

LOSS: Band = (
    (0.34, 1.1),
    (0.031, 0.98),
    (0.011, 0.8),
    (0.0064, 0.75),
    (0.0045, 0.72),
    (0.0031, 0.68),
    (0.0026, 0.65),
    (0.002, 0.62),
    (0.0015, 0.59),
    (0.0011, 0.56),
)
"""Over a constant answer's, in ten equal parts of a training."""

UPDATES: Band = (
    (0.0063, 0.073),
    (0.0058, 0.059),
    (0.0051, 0.05),
    (0.004, 0.033),
    (0.0032, 0.026),
    (0.0032, 0.028),
    (0.0029, 0.022),
    (0.0026, 0.018),
    (0.0022, 0.016),
    (0.0012, 0.0079),
)
"""‖update‖ / ‖weights‖, in ten equal parts of a training."""

FLOW: Band = ((0.00066, 0.2), (0.003, 0.14), (0.0045, 0.62))
"""Gradient over weight, in the first, middle and last third of the layers."""

DEAD: Band = ((0.0, 0.3),)
"""Of the worst layer: the share of its inputs that are zero for a whole batch."""
