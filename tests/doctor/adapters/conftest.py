"""A program of another trainer, as a user has it."""

from pathlib import Path

import pytest


@pytest.fixture
def script(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The module's ``SCRIPT`` in a file."""
    path = tmp_path / "program.py"
    path.write_text(request.module.SCRIPT)
    return path
