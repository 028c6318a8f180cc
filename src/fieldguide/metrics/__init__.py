"""How good a network is."""

from fieldguide.metrics.classification import ClassificationMetrics, confusion_matrix, per_class

__all__ = ["ClassificationMetrics", "confusion_matrix", "per_class"]
