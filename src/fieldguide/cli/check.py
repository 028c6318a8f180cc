"""``fieldguide check``: this machine and installation on a dozen lines that can be pasted into a bug report."""

import os
import sys
from importlib.metadata import PackageNotFoundError, version

from fieldguide.cli.options import Json
from fieldguide.cli.terminal import say_json

EXTRAS = {
    "hub": ("huggingface-hub",),
    "track": ("tensorboard",),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "detect": ("faster-coco-eval",),
    "parity": ("timm", "transformers", "diffusers", "einops"),
    "dev": ("pytest", "hypothesis", "jaxtyping", "beartype", "ruff", "basedpyright"),
}


def check(*, json: Json = False) -> None:
    """Describe this machine and installation, ready to paste into a bug report."""
    facts = describe()
    if json:
        say_json(facts)
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        shown = ", ".join(value) or "none" if isinstance(value, list) else value
        print(f"{name:<{width}}  {shown}")


def describe() -> dict[str, object]:
    """What differs between machines on which the same command behaves differently."""
    from fieldguide.train.environment import environment

    facts = environment()
    facts.pop("command")  # it may hold names of files
    facts.pop("accelerators")
    packages = facts.pop("packages")
    return {
        **facts,
        "memory": _memory(),
        "devices": _devices(),
        "encoding": sys.stdout.encoding,
        **packages,
        "extras": [extra for extra, needed in EXTRAS.items() if all(map(_installed, needed))],
        "settings": [f"{key}={os.environ[key]}" for key in sorted(os.environ) if key.endswith("_NUM_THREADS")],
    }


def _installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return "unknown"


def _devices() -> list[str]:
    import torch

    found = ["cpu"]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        found.append(f"cuda:{index} {card.name} ({card.total_memory / 2**30:.0f} GiB)")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found
