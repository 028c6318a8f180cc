"""What is minimised."""

from fieldguide.objectives.classification import Classification
from fieldguide.objectives.focal import class_weights, focal_loss
from fieldguide.objectives.language import MaskedToken, NextToken, SequenceToSequence
from fieldguide.objectives.phase import Batch, Metrics, Objective, Phase
from fieldguide.objectives.regression import Regression

__all__ = [
    "Batch",
    "Classification",
    "MaskedToken",
    "Metrics",
    "NextToken",
    "Objective",
    "Phase",
    "Regression",
    "SequenceToSequence",
    "class_weights",
    "focal_loss",
]
