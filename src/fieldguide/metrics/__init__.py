"""How good a network is."""

from fieldguide.metrics.calibration import Reliability, reliability
from fieldguide.metrics.classification import ClassificationMetrics, confusion_matrix, per_class
from fieldguide.metrics.language import TokenMetrics
from fieldguide.metrics.measures import Measures
from fieldguide.metrics.regression import RegressionMetrics
from fieldguide.metrics.translation import bleu, exact_match

__all__ = [
    "ClassificationMetrics",
    "Measures",
    "RegressionMetrics",
    "Reliability",
    "TokenMetrics",
    "bleu",
    "confusion_matrix",
    "exact_match",
    "per_class",
    "reliability",
]
