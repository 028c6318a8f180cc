"""Treatment: which fix helps, tried on forks of a training that never reach it."""

from fieldguide.doctor.treatment.beginning import Beginning
from fieldguide.doctor.treatment.remedies import REMEDIES, Remedy, executable
from fieldguide.doctor.treatment.trials import STEPS, Treatment, Trial, treat

__all__ = ["REMEDIES", "STEPS", "Beginning", "Remedy", "Treatment", "Trial", "executable", "treat"]
