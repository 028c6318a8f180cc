"""Where 56 healthy trainings lie, the middle 80 %; see ``benchmarks/doctor/bands.py``."""

Band = tuple[tuple[float, float], ...]

LOSS: Band = (
    (0.23, 1.0),
    (0.027, 0.98),
    (0.0091, 0.8),
    (0.0059, 0.74),
    (0.0034, 0.72),
    (0.003, 0.67),
    (0.0024, 0.64),
    (0.0016, 0.61),
    (0.0014, 0.58),
    (0.00097, 0.55),
)
"""Over a constant answer's, in ten equal parts of a training."""

UPDATES: Band = (
    (0.0029, 0.077),
    (0.0054, 0.069),
    (0.005, 0.063),
    (0.0039, 0.039),
    (0.003, 0.03),
    (0.0031, 0.029),
    (0.0031, 0.021),
    (0.0027, 0.019),
    (0.0019, 0.013),
    (0.00069, 0.0077),
)
"""‖update‖ / ‖weights‖, in ten equal parts of a training."""

FLOW: Band = ((0.00063, 0.19), (0.0031, 0.16), (0.0045, 0.7))
"""Gradient over weight, in the first, middle and last third of the layers."""

DEAD: Band = ((0.0, 0.38),)
"""Of the worst layer: the share of its inputs that are zero for a whole batch."""
