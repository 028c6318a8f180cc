"""What the verb ``eval`` does: the images, the network's answers, and how good they are."""

from pathlib import Path
from typing import Any, Literal

from fieldguide.cli.devices import choose_device
from fieldguide.cli.job import Job, source
from fieldguide.cli.trained import Trained
from fieldguide.data import Split
from fieldguide.data.sources import open_split
from fieldguide.errors import FieldguideError
from fieldguide.metrics import ClassificationMetrics
from fieldguide.report.story import class_scores
from fieldguide.train.run import RunFolder

OnBadFile = Literal["stop", "skip"]


def evaluate(folder: Path, data: str | None, on_bad_file: OnBadFile, device: str) -> dict[str, Any]:
    """Accuracy, loss and a row per class, as plain values."""
    run = RunFolder.open(folder)
    trained = Trained.of(run, choose_device(device))
    images = _images(run, trained, data, on_bad_file)
    metrics = ClassificationMetrics()
    metrics.add(trained.logits_of(images), images.labels)
    scores = class_scores(metrics.confusion, trained.classes)
    rows = [score._asdict() | {"support": int(score.support)} for score in scores]
    return {"run": str(run.path), "images": len(images), **metrics.compute(), "classes": rows}


def _images(run: RunFolder, trained: Trained, data: str | None, on_bad_file: OnBadFile) -> Split:
    job = Job.recall(run)
    if data is None or source(data) == job.data:  # never its training images: they would flatter it
        own = job.open_data()
        if own.fingerprint != job.fingerprint:
            raise FieldguideError(f"the images at {job.data} have changed since the run; name others with --data")
        return own.test
    return open_split(
        source(data),
        classes=trained.classes,
        image_size=trained.size,
        channels=trained.channels,
        on_bad_file=on_bad_file,
    )
