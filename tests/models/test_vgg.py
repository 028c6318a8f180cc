"""VGG: its sizes, its errors and its first weights; parity is in tests/weights."""

import pytest
import torch

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model


def test_stages_end_with_their_pooling():
    model = create_model("vgg11", in_channels=1, num_classes=5, units=(8,)).eval()
    maps = model.features(torch.randn(1, 1, 96, 64))
    sizes = [(64, 48, 32), (128, 24, 16), (256, 12, 8), (512, 6, 4), (512, 3, 2)]
    assert [tuple(m.shape[1:]) for m in maps] == sizes
    assert [info.stride for info in model.feature_info] == [2, 4, 8, 16, 32]
    assert model.classify(maps[-1]).shape == (1, 5)


@pytest.mark.parametrize(("name", "layers"), [("vgg11", 11), ("vgg13", 13), ("vgg16", 16), ("vgg19_bn", 19)])
def test_names_count_the_layers_that_have_weights(name, layers):
    with torch.device("meta"):
        model = create_model(name)
    assert sum(isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in model.modules()) == layers


def test_too_small_images_are_refused_in_one_line():
    model = create_model("vgg11", units=(8,)).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
    with pytest.raises(FieldguideError, match=r"VGG takes images .* at least 32 pixels, got \(1, 3, 31, 40\)"):
        model(torch.zeros(1, 3, 31, 40))


def test_numbers_that_do_not_fit_together_are_named():
    with pytest.raises(FieldguideError, match=r"VGG: depths=\(1, 1\) and widths=\(64, .*\) must be equally many"):
        create_model("vgg16", depths=(1, 1))


def test_nineteen_layers_pass_the_signal_and_its_gradient_without_norms():
    """He et al. 2015, §2.2: variance 2 / fan keeps both within a few powers of two, however many layers there are."""
    torch.manual_seed(0)
    model = create_model("vgg19", units=(8,))
    images = torch.randn(2, 3, 64, 64)
    last = model.features(images)[-1]
    assert 0.1 < last.std() < 10
    last.square().mean().backward()
    first, latest = (model.stages[i][0].conv.weight.grad.norm() for i in (0, 4))
    assert 0.02 < first / latest < 50
