"""Lightning: ``Trainer(callbacks=[DoctorCallback()])``. Needs the package ``lightning``."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer  # pyright: ignore[reportMissingImports]

from fieldguide.doctor.adapters.attendance import Attendance
from fieldguide.doctor.history import Intent


class DoctorCallback(Callback):
    """Observes ``fit``; its settings and ``attendance.diagnosis`` are those of ``adapters.attendance``."""

    def __init__(self, folder: Path | None = None, intent: Intent | None = None, *, probes: bool = True):
        self.attendance = Attendance(folder, intent, probes=probes)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.attendance.begin()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.attendance.tell()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.attendance.end(None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.attendance.end(exception)
