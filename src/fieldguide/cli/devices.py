"""Where to compute."""

import torch

from fieldguide.errors import FieldguideError


def choose_device(name: str) -> str:
    """``auto`` is the accelerator, if there is one, else the processor; FieldguideError for one that is not there."""
    if name == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found.type if found else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as problem:
        raise FieldguideError(
            f"device {name!r} cannot be used here ({str(problem).splitlines()[0]}); there is {_there()}"
        ) from None
    return name


def _there() -> str:
    found = torch.accelerator.current_accelerator(check_available=True)
    return f"cpu and {found.type} ({torch.accelerator.device_count()})" if found else "only cpu"
