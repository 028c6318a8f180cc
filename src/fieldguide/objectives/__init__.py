"""What is minimised."""

from fieldguide.objectives.classification import Classification
from fieldguide.objectives.phase import Batch, Metrics, Objective, Phase

__all__ = ["Batch", "Classification", "Metrics", "Objective", "Phase"]
