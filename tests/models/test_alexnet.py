"""AlexNet: its sizes and its errors; parity is in tests/weights."""

import pytest
import torch

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model


def small(**overrides):
    return create_model("alexnet", units=(8, 8), **overrides).eval()


def test_maps_have_the_published_sizes():
    """224 pixels: 55 and pooled 27, then 13, then 6."""
    model = small()
    maps = model.features(torch.randn(1, 3, 224, 224))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 27, 27), (192, 13, 13), (256, 6, 6)]
    assert model.stages[0][0](torch.randn(1, 3, 224, 224)).shape == (1, 64, 55, 55)
    assert [info.stride for info in model.feature_info] == [8, 16, 32]


@pytest.mark.parametrize(("name", "side"), [("alexnet", 63), ("alexnet_mini", 15)])
def test_too_small_images_are_refused_in_one_line(name, side):
    model = create_model(name, units=(8, 8), in_channels=3).eval()
    assert model.features(torch.zeros(1, 3, side, side))[-1].shape[-2:] == (1, 1)
    assert model(torch.zeros(1, 3, side, side)).shape == (1, model.config.num_classes)
    with pytest.raises(FieldguideError, match=rf"AlexNet takes images .* at least {side} pixels, got \(1, 3, "):
        model(torch.zeros(1, 3, side - 1, side - 1))


def test_other_numbers_of_convolutions_are_refused():
    with pytest.raises(FieldguideError, match=r"AlexNet has five convolutions, got widths=\(64, 192\)"):
        create_model("alexnet", widths=(64, 192))
