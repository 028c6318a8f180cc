"""LeNet-5: its shapes, its arithmetic, its errors."""

import pytest
import torch

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model


def test_parameters_layer_by_layer():
    """C1 156, C3 2,416 with every map connected, C5 48,120, F6 10,164, output 850."""
    model = create_model("lenet5")
    layers = [module for module in model.modules() if not list(module.children()) and list(module.parameters())]
    assert [sum(p.numel() for p in layer.parameters()) for layer in layers] == [156, 2416, 48120, 10164, 850]


def test_maps_have_the_papers_sizes():
    maps = create_model("lenet5").features(torch.randn(2, 1, 32, 32))
    assert [tuple(m.shape) for m in maps] == [(2, 6, 14, 14), (2, 16, 5, 5)]


@pytest.mark.parametrize("side", [28, 36])
def test_other_image_sizes_are_refused(side):
    with pytest.raises(FieldguideError, match=rf"LeNet takes images of 32×32 pixels, got \(1, 1, {side}, {side}\)"):
        create_model("lenet5")(torch.zeros(1, 1, side, side))


def test_other_channels_are_refused():
    with pytest.raises(FieldguideError, match=r"LeNet takes images \(batch, 3, "):
        create_model("lenet5", in_channels=3)(torch.zeros(1, 1, 32, 32))
