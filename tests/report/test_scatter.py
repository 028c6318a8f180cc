"""Predicted numbers against true ones."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

from fieldguide.errors import DamagedFile
from fieldguide.report import Numbers, build_report
from fieldguide.report.scatter import FILE, draw_scatter


def line() -> Numbers:
    x, y = load_diabetes(return_X_y=True)
    predicted = LinearRegression().fit(x[:300], y[:300]).predict(x[300:])
    return Numbers(target="progression $x$", truth=torch.tensor(y[300:]), predicted=torch.tensor(predicted))


def test_kept_and_read_again(tmp_path: Path) -> None:
    numbers = line()
    numbers.save(tmp_path)
    again = Numbers.load(tmp_path)
    assert again
    assert again.target == numbers.target
    assert torch.equal(again.truth, numbers.truth)
    assert torch.equal(again.predicted, numbers.predicted)
    assert Numbers.load(tmp_path / "elsewhere") is None
    (tmp_path / FILE).write_bytes(b"rubbish")
    with pytest.raises(DamagedFile, match=r"numbers.safetensors cannot be read"):
        Numbers.load(tmp_path)


def test_the_story_tells_the_errors() -> None:
    numbers = Numbers(target="y", truth=torch.tensor([1.0, 2.0, 30.0]), predicted=torch.tensor([1.5, 2.0, 22.0]))
    assert "3 test rows" in numbers.story
    assert "below 0.5; the largest is 8, where 30 was true" in numbers.story


@pytest.mark.parametrize("rows", [142, 1])
def test_the_picture_holds_the_points(tmp_path: Path, rows: int) -> None:
    numbers = line()
    few = Numbers(target=numbers.target, truth=numbers.truth[:rows], predicted=numbers.predicted[:rows])
    pixels = np.asarray(Image.open(draw_scatter(few, tmp_path / "scatter.png")).convert("RGB")).astype(int)
    red, _, blue = np.moveaxis(pixels, -1, 0)
    left = pixels.shape[1] * 3 // 5
    assert ((blue - red)[:, :left] > 60).sum() > 10 * rows**0.5, "points"
    assert ((red - blue)[:, :left] > 100).sum() > 200, "the line of equals"
    assert ((blue - red)[:, left:] > 60).sum() > 200, "the errors"


def test_the_report_shows_it(run: Path) -> None:
    line().save(run)
    text = build_report(run).read_text()
    assert "scatter.png" in {path.name for path in (run / "figures").iterdir()}
    assert "142 test rows" in text
