"""The reliability diagram."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fieldguide.metrics import reliability
from fieldguide.report.calibration import draw_reliability, story_of


def test_the_gap_is_drawn_and_only_where_there_is_one(tmp_path: Path, digit_predictions) -> None:
    said = digit_predictions()
    real = reliability(said.probability.double(), said.predicted == said.labels)
    middle = torch.full((1000,), 0.7, dtype=torch.float64)
    honest = reliability(middle, torch.arange(1000) % 10 < 7)
    boastful = reliability(middle, torch.arange(1000) % 10 < 2)
    orange = {}
    for name, found in {"real": real, "honest": honest, "boastful": boastful}.items():
        pixels = np.asarray(Image.open(draw_reliability(found, tmp_path / f"{name}.png")).convert("RGB")).astype(int)
        red, green, blue = np.moveaxis(pixels, -1, 0)
        orange[name] = int(((red - blue > 100) & (green < 160)).sum())
        assert ((blue - red) > 60).sum() > 500, name
    assert orange["boastful"] > 300
    assert orange["boastful"] > 10 * orange["honest"]
    assert honest.error < 1e-9
    assert boastful.error > 0.49


def test_the_story_says_which_way_it_errs() -> None:
    chances = torch.tensor([0.9, 0.9, 0.9, 0.9], dtype=torch.float64)
    assert "90.0% sure and 50.0% right: more sure than right" in story_of(reliability(chances, torch.arange(4) < 2))
    assert "90.0% sure and 100.0% right: less sure than right" in story_of(reliability(chances, torch.arange(4) < 4))
