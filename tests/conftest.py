"""What every test shares: one thread each, no network, repeatable hypothesis, and a word on missing oracles."""

import importlib.util
import shutil

import pytest
import tests.typing_checks  # noqa: F401  (before anything of fieldguide is imported)
import torch
from hypothesis import HealthCheck, settings

ORACLES = ("timm", "transformers", "diffusers", "accelerate", "lightning", "tensorboard", "chromium")
"""What tests compare with, train beside or read with: the extras `parity`, `trainers` and `track`, and a browser."""

torch.set_num_threads(1)
# A slow machine must not turn a property into a failure, and a failure must come again on the next run.
settings.register_profile(
    "fieldguide",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("fieldguide")


def pytest_report_header() -> str:
    missing = [name for name in ORACLES if importlib.util.find_spec(name) is None and shutil.which(name) is None]
    return f"oracles: {', '.join(name for name in ORACLES if name not in missing)}" + (
        f"; NOT installed, their tests are skipped: {', '.join(missing)}" if missing else ""
    )


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.default_generator.manual_seed(0)  # torch.manual_seed notes the stack for every device that is not in use
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)
