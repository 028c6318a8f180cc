"""What a run has logged."""

from pathlib import Path

from fieldguide import trace
from fieldguide.errors import DamagedFile, FieldguideError


def read_records(run: Path) -> list[trace.Record]:
    """A run's metrics; raises FieldguideError when there are none, DamagedFile when a line is not a record."""
    file = run / "metrics.jsonl"
    try:
        records = list(trace.read(file)) if file.exists() else []
    except ValueError as problem:
        raise DamagedFile(str(problem)) from None
    if not any(r["kind"] == "step" for r in records):
        raise FieldguideError(f"{run} has no finished training step, so there is nothing to report")
    return records
