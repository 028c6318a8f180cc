"""On what a run was made: versions, processor and revision; no names of users or hosts, no variables."""

import hashlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import fieldguide
from fieldguide.bounded import read_json

__all__ = ["changes", "environment"]

_ROOMS = ("blocks", "data", "models", "objectives", "optim", "train")
_PACKAGES = ("torch", "torchvision", "numpy", "safetensors", "scikit-learn", "torchmetrics", "tokenizers")


def environment() -> dict[str, Any]:
    """What ``environment.json`` and ``fieldguide check`` say; plain JSON values."""
    accelerators = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "fieldguide": fieldguide.__version__,
        "source": _source(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "accelerators": accelerators,
        "packages": {name: _version(name) for name in _PACKAGES},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "revision": _revision(),
    }


def changes(file: Path) -> list[str]:
    """What moves bits and is another now than when ``file``, an environment.json, was written: one line each.

    Where changes were accepted since, the last of them count. A file that cannot be read, and a value that it lacks,
    say nothing.
    """
    try:
        then = [first := read_json(file), *first.get("later", [])][-1]
        old = {**then, "torch": then["packages"]["torch"]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []
    now = environment()
    new = {**now, "torch": now["packages"]["torch"]}
    what = {"source": "fieldguide's source", "python": "python", "torch": "torch", "cpu_capability": "CPU capability"}
    return [
        f"{said}: {old[key]} → {new[key]}"
        for key, said in what.items()
        if old.get(key) is not None and old[key] != new[key]
    ]


def _source() -> str:
    """A hash of the files that make the bits of a training, which a version alone does not tell apart."""
    total, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(path for room in _ROOMS for path in (root / room).rglob("*.py")):
        total.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _revision() -> str | None:
    """The git commit of the working folder, with ``+`` when files differ from it; None outside a repository."""
    commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"])
    try:
        head, changes = (
            subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changes else "")
