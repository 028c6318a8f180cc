"""The state of every random generator a training step may draw from, as plain numbers and tensors."""

import _random
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import string_at
from typing import Any

import numpy as np
import torch

from fieldguide.errors import FieldguideError

_PYTHON: Any = getattr(random.getstate, "__self__", None)  # the generator behind the functions of the module
_CPYTHON, _PYTHON_SIZE = sys.implementation.name == "cpython", _random.Random.__basicsize__


def seed_everything(seed: int) -> None:
    """Seeds torch (every device), Python's ``random`` and NumPy's global generator."""
    torch.manual_seed(seed)
    reseed(seed)


def reseed(seed: int) -> None:
    """``seed_everything`` on devices in use: for every other one PyTorch would write down the whole stack."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def random_state() -> dict[str, Any]:
    """Everything that ``seed_everything`` seeds, where it stands now."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
        "numpy": {
            "keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "gauss": float(cached),
        },
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Goes back to where ``random_state`` was taken; generators of devices that are not here are left out."""
    torch.set_rng_state(state["torch"])
    for device, words in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(words, device)
    python, numpy = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["position"], numpy["has_gauss"], numpy["gauss"]))


class Generators:
    """What ``random_state`` holds, to come back to at any step.

    Python and NumPy take long to hand their states out, and few steps use them: that is done only when the memory in
    which a generator keeps its words and its position has changed.
    """

    def __init__(self) -> None:
        self._python: Any = None
        self._numpy: Any = None
        self._seen = self._seen_of_numpy = b""

    def remember(self) -> None:
        seen = string_at(id(_PYTHON), _PYTHON_SIZE)[object.__basicsize__ :] if _CPYTHON else b""
        if not seen or seen != self._seen or _PYTHON.gauss_next != self._python[2]:
            self._seen, self._python = seen, random.getstate()
        generator: Any = np.random.get_bit_generator()  # pyright: ignore[reportAttributeAccessIssue]
        seen = string_at(generator.ctypes.state_address, 4 * 625)
        if seen != self._seen_of_numpy or self._numpy[3]:  # a second normal number is in store, and kept elsewhere
            self._seen_of_numpy, self._numpy = seen, np.random.get_state(legacy=True)
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
        self._torch = torch.get_rng_state(), cuda

    def restore(self) -> None:
        cpu, cuda = self._torch
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(cuda)
        random.setstate(self._python)
        np.random.set_state(self._numpy)


@contextmanager
def untouched() -> Iterator[None]:
    """Whatever is drawn inside the ``with`` block, the generators stand where they stood afterwards."""
    generators = Generators()
    generators.remember()
    try:
        yield
    finally:
        generators.restore()


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Only deterministic algorithms inside the ``with`` block (PyTorch's note "Reproducibility"); all as before after.

    Raises:
        FieldguideError: an operation has no such algorithm, or cuBLAS was not told to use one.
    """
    if not wanted:
        yield
        return
    if torch.cuda.is_available() and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
        raise FieldguideError(
            "deterministic: set the variable CUBLAS_WORKSPACE_CONFIG=:4096:8 before the command starts"
        )
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    mode = torch.get_deterministic_debug_mode()
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as problem:
        operation, found, _ = str(problem).partition(" does not have a deterministic implementation")
        if not found:
            raise
        raise FieldguideError(
            f"deterministic: torch has no deterministic algorithm for {operation} here; set deterministic = false"
        ) from problem
    finally:
        torch.set_deterministic_debug_mode(mode)
        cudnn.deterministic, cudnn.benchmark = before
