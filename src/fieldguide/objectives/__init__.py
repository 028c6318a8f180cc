"""What is minimised."""

from fieldguide.objectives.classification import Classification
from fieldguide.objectives.language import MaskedToken, NextToken, SequenceToSequence
from fieldguide.objectives.phase import Batch, Metrics, Objective, Phase

__all__ = [
    "Batch",
    "Classification",
    "MaskedToken",
    "Metrics",
    "NextToken",
    "Objective",
    "Phase",
    "SequenceToSequence",
]
