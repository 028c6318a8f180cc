"""What a run has logged, and what it says of itself."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fieldguide import trace
from fieldguide.bounded import MB, read_json, read_plain
from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.report.figures import FIGURES

_NUMBERS = {
    "step": ("step", "epoch", "loss", "lr", "samples", "seconds"),
    "epoch": ("epoch", "step", "train_loss", "seconds"),
    "test": ("step",),
}
_ALSO_NUMBERS = {
    *("step", "epoch", "loss", "lr", "grad_norm", "samples", "seconds", "update_ratio", "baseline"),
    *("data_wait", "resident_bytes", "device_bytes", "reserved_bytes"),
    *(f"{part}_{name}" for part in ("val", "test") for name in FIGURES),
}
_SIGNS = ("grad", "weight", "dead")
_LARGEST = 2.0**63


_JOB = {"model": str, "data": str, "unit": str, "next": list}


def read_environment(run: Path) -> Mapping[str, Any]:
    """A run's environment.json, empty where there is none; DamagedFile when it is not as a run writes it."""
    file = run / "environment.json"
    entries = read_json(file) if file.exists() else {}
    job = entries.get("job", {}) if isinstance(entries, dict) else None
    if not isinstance(job, dict):
        raise DamagedFile(f"{file} does not say what the run was asked to do")
    for key in _JOB.keys() & job:
        if not isinstance(job[key], _JOB[key]):
            raise DamagedFile(f"{file}: {key} of its job is {job[key]!r:.40}")
    return entries


def read_recipe(run: Path) -> Mapping[str, Any]:
    """A run's recipe.toml as a tree, empty where there is none; DamagedFile when it cannot be read."""
    file = run / "recipe.toml"
    try:
        return tomllib.loads(read_plain(file, MB).decode()) if file.exists() else {}
    except OSError as problem:
        raise DamagedFile(f"{file} cannot be read: {problem.strerror}") from problem
    except (ValueError, RecursionError) as problem:
        raise DamagedFile(f"{file} cannot be read: {' '.join(str(problem).split())[:200]}") from problem


def read_records(run: Path) -> list[trace.Record]:
    """A run's metrics; raises FieldguideError when there are none, DamagedFile when a line is not a record."""
    file = run / "metrics.jsonl"
    records = read_log(file)
    if not any(r["kind"] == "step" for r in records):
        raise FieldguideError(f"{run} has no finished training step, so there is nothing to report")
    return records


def read_log(file: Path) -> list[trace.Record]:
    """The records of a run's log, none where there is no log; raises DamagedFile when a line is not a record."""
    try:
        records = list(trace.read(file)) if file.exists() else []
    except ValueError as problem:
        raise DamagedFile(str(problem)) from None
    for number, record in enumerate(records, start=1):
        if wrong := _flaw(record):
            raise DamagedFile(f"{file}, record {number}: {wrong}")
    return records


def _flaw(record: trace.Record) -> str | None:
    """Why a record cannot be of a training."""
    if not isinstance(record.get("kind"), str):
        return "it has no kind"
    needed = [*_NUMBERS.get(record["kind"], ()), *(_ALSO_NUMBERS & record.keys())]
    wrong = [key for key in needed if not is_number(record.get(key))]
    if wrong:
        return f"{wrong[0]} is missing, or no number"
    gradients = record.get("gradients", {})
    if not isinstance(gradients, dict) or not all(map(is_number, gradients.values())):
        return "gradients is no table of numbers"
    layers = record.get("layers", {})
    sound = isinstance(layers, dict) and all(isinstance(signs, dict) for signs in layers.values())
    numbers = (signs.get(name, 0) for signs in layers.values() for name in _SIGNS) if sound else [None]
    return None if all(map(is_number, numbers)) else "layers is no table of numbers"


def is_number(value: object) -> bool:
    """Whether it can be drawn; JSON knows whole numbers of a thousand digits."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < _LARGEST)
