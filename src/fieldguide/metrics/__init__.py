"""How good a network is."""

from fieldguide.metrics.classification import ClassificationMetrics, confusion_matrix, per_class
from fieldguide.metrics.language import TokenMetrics

__all__ = ["ClassificationMetrics", "TokenMetrics", "confusion_matrix", "per_class"]
