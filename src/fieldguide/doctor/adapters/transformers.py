"""transformers: ``Trainer(…, callbacks=[DoctorCallback()])``. Needs the packages transformers and accelerate."""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from fieldguide.doctor.adapters.attendance import Attendance
from fieldguide.doctor.history import Intent


class DoctorCallback(TrainerCallback):
    """Observes ``train``; its settings and ``attendance.diagnosis`` are those of ``adapters.attendance``.

    The trainer tells its callbacks of no error: a training that crashed is ended by ``attendance.end(error)``.
    """

    def __init__(self, folder: Path | None = None, intent: Intent | None = None, *, probes: bool = True):
        self.attendance = Attendance(folder, intent, probes=probes)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **around: Any
    ) -> None:
        self.attendance.begin()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **around: Any) -> None:
        self.attendance.tell()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **around: Any
    ) -> None:
        self.attendance.end(None)
