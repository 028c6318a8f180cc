"""Tiny real image files for the tests of data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """``make_folder({"cats": 3, "dogs": 4})`` writes that many distinct PNGs into each class folder."""

    def make(counts: dict[str, int], size: tuple[int, int] = (10, 8), mode: str = "RGB", root: str = "pets") -> Path:
        random = np.random.default_rng(0)
        for name, count in counts.items():
            (tmp_path / root / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                shape = size if mode == "L" else (*size, 3)
                Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(tmp_path / root / name / f"{i:02}.png")
        return tmp_path / root

    return make
