"""What a run has logged."""

from pathlib import Path

from fieldguide import trace
from fieldguide.errors import DamagedFile, FieldguideError

_NUMBERS = {
    "step": ("step", "epoch", "loss", "lr", "samples", "seconds"),
    "epoch": ("epoch", "step", "train_loss", "seconds"),
    "test": ("step",),
}


def read_records(run: Path) -> list[trace.Record]:
    """A run's metrics; raises FieldguideError when there are none, DamagedFile when a line is not a record."""
    file = run / "metrics.jsonl"
    try:
        records = list(trace.read(file)) if file.exists() else []
    except ValueError as problem:
        raise DamagedFile(str(problem)) from None
    for number, record in enumerate(records, start=1):
        if wrong := _flaw(record):
            raise DamagedFile(f"{file}, record {number}: {wrong}")
    if not any(r["kind"] == "step" for r in records):
        raise FieldguideError(f"{run} has no finished training step, so there is nothing to report")
    return records


def _flaw(record: trace.Record) -> str | None:
    """Why a record cannot be of a training."""
    if not isinstance(record.get("kind"), str):
        return "it has no kind"
    wrong = [key for key in _NUMBERS.get(record["kind"], ()) if not isinstance(record.get(key), int | float)]
    return f"{wrong[0]} is missing, or no number" if wrong else None
