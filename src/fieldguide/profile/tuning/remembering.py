"""What was found before for this machine and this network: in this process, and in a file where one is given."""

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import fieldguide
from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.profile.tuning.candidate import Subject

INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Found:
    """The settings that won, and by how much."""

    settings: tuple[str, ...]
    seconds: float
    speedup: float


_HERE: dict[str, Found] = {}


def key_of(subject: Subject, tolerance: float) -> str:
    """Equal where the same settings are to be expected: machine, versions, structure, shapes; not the weights."""
    model, tensors = subject.model, (*subject.model.named_parameters(), *subject.model.named_buffers())
    facts = [
        *(fieldguide.__version__, torch.__version__, platform.machine(), _processor(), torch.get_num_threads()),
        torch.cuda.get_device_name(subject.device) if subject.device.type == "cuda" else subject.device.type,
        *(subject.training, tolerance),
        [(tuple(x.shape), str(x.dtype)) for x in subject.arguments],
        [(name, type(module).__qualname__, module.extra_repr()) for name, module in model.named_modules()],
        [(name, tuple(x.shape), str(x.dtype)) for name, x in tensors],
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]


def _processor() -> str:
    lines = INFO.read_text().splitlines() if INFO.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def recall(key: str, file: Path | None) -> Found | None:
    """None where nothing is known. Raises DamagedFile for a file that holds something else."""
    return _HERE.get(key) or (_read(file).get(key) if file else None)


def remember(key: str, found: Found, file: Path | None) -> None:
    """Raises FieldguideError where the file cannot be written."""
    _HERE[key] = found
    if not file:
        return
    known = {name: asdict(other) for name, other in (_read(file) | {key: found}).items()}
    fresh = file.with_name(file.name + ".new")
    try:
        fresh.write_text(json.dumps({"schema": 1, "found": known}, indent=2) + "\n", encoding="utf-8")
        os.replace(fresh, file)
    except OSError as problem:
        raise FieldguideError(f"{file} cannot be written ({problem.strerror}); choose another file") from None


def _read(file: Path) -> dict[str, Found]:
    if not file.exists():
        return {}
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))["found"]
        return {
            key: Found(tuple(map(str, each["settings"])), float(each["seconds"]), float(each["speedup"]))
            for key, each in stored.items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise DamagedFile(f"{file} does not hold what tune remembers; delete it, or choose another file") from None
