"""The pictures of filters and maps show the numbers, each in its place."""

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.image import imread
from torch import nn

from fieldguide.blocks.conv import FeatureInfo
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.report.features import COLUMNS, TILE, draw_filters, draw_maps
from fieldguide.report.style import DOTS_PER_INCH

WIDTH = round(COLUMNS * TILE * DOTS_PER_INCH)


def tile_tops(pixels: np.ndarray) -> np.ndarray:
    """Where rows of tiles, or an image, begin: most of the first tile's columns cease to be white."""
    part = pixels[:, 10 : WIDTH // COLUMNS - 12]
    inked = (part < 0.999).any(-1).mean(1) > 0.9
    return (np.diff(inked.astype(int)) == 1).nonzero()[0] + 1


@pytest.mark.parametrize("channels", [1, 3])
def test_filters(channels, tmp_path):
    model = nn.Sequential(nn.Conv2d(channels, 20, 2))
    with torch.no_grad():
        model[0].weight[0] = -0.1  # all black
        model[0].weight[1] = torch.tensor([[0.2, 0.0], [0.0, -0.2]])  # white, mid-grey, mid-grey, black
    pixels = imread(draw_filters(model, tmp_path / "filters.png"))[..., :3]
    assert pixels.shape[1] == WIDTH
    (top, _), side = tile_tops(pixels), round(0.92 * WIDTH / COLUMNS)
    rows = [top + side // 4, top + 3 * side // 4]
    columns = [5 + WIDTH // COLUMNS + side // 4, 5 + WIDTH // COLUMNS + 3 * side // 4]
    np.testing.assert_allclose(pixels[rows][:, columns].mean(-1), [[1, 0.5], [0.5, 0]], atol=0.02)


def test_a_vit_has_filters_and_a_linear_model_has_none(tmp_path):
    assert imread(draw_filters(create_model("vit_mini"), tmp_path / "filters.png")).shape[1] == WIDTH
    with pytest.raises(FieldguideError, match="Sequential has no convolution"):
        draw_filters(nn.Sequential(nn.Linear(2, 2)), tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


class Levels(nn.Module):
    """Two stages of constant maps: channel k holds k."""

    def __init__(self):
        super().__init__()
        self.feature_info = (FeatureInfo(5, 1), FeatureInfo(40, 2))

    def features(self, x):
        return [torch.arange(float(c)).view(1, c, 1, 1).expand(1, c, 8 // s, 8 // s) for c, s in self.feature_info]


def test_maps_are_ordered_by_activity(tmp_path):
    image = torch.full((3, 8, 8), 90, dtype=torch.uint8)
    inputs = torch.zeros(1, 3, 8, 8)
    both = imread(draw_maps(Levels(), image, inputs, tmp_path / "maps.png"))
    second = imread(draw_maps(Levels(), image, inputs, tmp_path / "second.png", [1]))[..., :3]
    assert both.shape[1] == second.shape[1] == WIDTH
    assert both.shape[0] > second.shape[0]
    _, *tops = tile_tops(second)
    assert len(tops) == 2
    centres = (np.arange(COLUMNS) + 0.45) * WIDTH / COLUMNS
    shades = second[[top + 20 for top in tops]][:, centres.astype(int)].reshape(-1, 3)
    expected = colormaps["magma"](np.arange(31, -1, -1) / 31)[:, :3]  # 32 of 40 are shown
    np.testing.assert_allclose(shades, expected, atol=0.02)


@pytest.mark.parametrize("name", ["resnet_mini", "vit_mini"])
def test_maps_of_real_networks(name, tmp_path):
    model = create_model(name, in_channels=3).eval()
    image = torch.randint(256, (3, 32, 32), dtype=torch.uint8)
    file = draw_maps(model, image, image[None] / 255, tmp_path / "maps.png")
    assert imread(file).shape[1] == WIDTH
