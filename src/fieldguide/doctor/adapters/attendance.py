"""What the callbacks of all trainers do: begin an observation, tell what is found as it is found, and end it."""

import logging
from pathlib import Path

from fieldguide.doctor.attending import Doctor
from fieldguide.doctor.examination import Diagnosis
from fieldguide.doctor.history import Intent

LOGGER = logging.getLogger("fieldguide.doctor")


class Attendance:
    """One training under observation. ``diagnosis`` is what is known so far, and stays when the training is over.

    ``folder`` receives ``trace.jsonl`` and ``doctor.json``; ``intent`` says what is done on purpose; without ``probes``
    nothing is tried on copies. Findings are warnings of the logger ``fieldguide.doctor``.
    """

    def __init__(self, folder: Path | None = None, intent: Intent | None = None, *, probes: bool = True):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.intent, self.probes = folder, intent or Intent(), probes
        self.doctor: Doctor | None = None

    @property
    def diagnosis(self) -> Diagnosis | None:
        return self.doctor.diagnosis() if self.doctor is not None else None

    def begin(self) -> None:
        self.end(None)
        self.doctor = Doctor(folder=self.folder, probes=self.probes)
        self.doctor.examination.history.intent = self.intent

    def tell(self) -> None:
        """Says what was found since it was last asked."""
        for found in self.doctor.step() if self.doctor is not None else ():
            level = logging.INFO if found.severity == "info" else logging.WARNING
            LOGGER.log(
                level, "%s %s (%s, step %d): %s", found.rule, found.slug, found.severity, found.step, found.evidence
            )

    def end(self, problem: BaseException | None) -> None:
        if self.doctor is not None:
            self.doctor.close(problem)
            self.tell()
