"""EfficientNets: compound scaling, and what torchvision fixes beyond the weights."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import StochasticDepth as TheirStochasticDepth

from fieldguide.blocks.residual import StochasticDepth
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.models.vision.efficientnet import SIZES
from fieldguide.profile import layer_table
from fieldguide.weights import load_weights

PUBLISHED = [name for name in SIZES if not name.endswith("mini")]


@pytest.mark.parametrize("name", PUBLISHED)
def test_constants_are_torchvisions(name):
    """Of every norm, dropout and stochastic depth, in the order of the blocks."""
    with torch.device("meta"):
        ours, theirs = create_model(name), torchvision.models.get_model(name, weights=None)
    for model in (ours, theirs):
        model.constants = (
            [(norm.eps, norm.momentum) for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)],
            [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)],
        )
    assert ours.constants == theirs.constants
    rates = [layer.p for layer in theirs.modules() if isinstance(layer, TheirStochasticDepth)]
    assert [layer.rate for layer in ours.modules() if isinstance(layer, StochasticDepth)] == pytest.approx(rates)
    assert max(rates) > 0.18


B3 = pytest.param("b3", 300, 1.8, marks=pytest.mark.slow)


@pytest.mark.parametrize(("size", "side", "billions"), [("b0", 224, 0.39), ("b1", 240, 0.70), B3])
def test_operations_are_the_papers(size, side, billions):
    """Multiply-adds of Tan & Le 2019, table 2."""
    with torch.device("meta"):
        table = layer_table(create_model(f"efficientnet_{size}"), torch.zeros(1, 3, side, side))
    assert table.total.flops / 2e9 == pytest.approx(billions, rel=0.06)


def test_compound_scaling_rounds_widths_to_eight_and_layers_up():
    with torch.device("meta"):
        model = create_model("efficientnet_b0", width=1.2, depth=1.4)
    assert [info.channels for info in model.feature_info] == [24, 32, 48, 96, 136, 232, 384]
    assert [len(stage) for stage in model.stages] == [2, 3, 3, 5, 5, 6, 2]
    assert model.stem.conv.out_channels == 40


def test_training_equals_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.models.efficientnet_b0(dropout=0.0, stochastic_depth_prob=0.0).double()
    ours = create_model("efficientnet_b0", dropout=0.0, stochastic_depth=0.0).double()
    load_weights(ours, theirs.state_dict())
    x = torch.randn(4, 3, 48, 48, dtype=torch.float64)
    for model in (ours, theirs):
        model.train()(x).square().sum().backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        scale = other.grad.abs().max().item()
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-8, atol=1e-8 * scale)
    for one, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_features_are_the_stages():
    model = create_model("efficientnet_v2_s", in_channels=1, num_classes=5).eval()
    maps = model.features(torch.randn(1, 1, 64, 32))
    shapes = [(24, 32, 16), (48, 16, 8), (64, 8, 4), (128, 4, 2), (160, 4, 2), (256, 2, 1)]
    assert [tuple(m.shape[1:]) for m in maps] == shapes
    assert [tuple(info) for info in model.feature_info] == [(shape[0], 64 // shape[1]) for shape in shapes]


def test_too_small_images_are_refused_in_one_line():
    with pytest.raises(FieldguideError, match=r"EfficientNet takes images .* at least 32 pixels, got \(1, 3, 28, 28\)"):
        create_model("efficientnet_b0")(torch.zeros(1, 3, 28, 28))
    assert create_model("efficientnet_mini").eval()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
