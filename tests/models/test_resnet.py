"""ResNets against torchvision's, with random weights under calibrated batch statistics."""

import re

import pytest
import torch
import torchvision
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model

PARTS = {"conv": "conv", "norm": "bn"}
BASIC = {"conv1": "1", "conv2": "2"}
BOTTLENECK = {"reduce": "1", "conv": "2", "restore": "3"}


def torchvision_name(name: str) -> str:
    """``stages.0.1.restore.norm.bias`` → ``layer1.1.bn3.bias``."""
    name = re.sub(r"^stem\.0\.(conv|norm)\.", lambda m: f"{PARTS[m[1]]}1.", name)
    name = re.sub(r"^head\.", "fc.", name)
    name = re.sub(r"^stages\.(\d)", lambda m: f"layer{int(m[1]) + 1}", name)
    name = re.sub(r"shortcut\.(conv|norm)\.", lambda m: f"downsample.{int(m[1] == 'norm')}.", name)
    numbers = BASIC | BOTTLENECK
    return re.sub(r"(\w+)\.(conv|norm)\.(\w+)$", lambda m: f"{PARTS[m[2]]}{numbers[m[1]]}.{m[3]}", name)


def calibrated_pair(name: str):
    """Both networks in float64 with the same weights, and batch statistics that fit the weights."""
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None).double()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        for _ in range(3):
            theirs(torch.randn(4, 3, 64, 64, dtype=torch.float64))
    ours = create_model(name).double()
    state = theirs.state_dict()
    assert {torchvision_name(key) for key in ours.state_dict()} == set(state)
    ours.load_state_dict({key: state[torchvision_name(key)] for key in ours.state_dict()})
    return ours.eval(), theirs.eval()


def check_parity(name: str) -> None:
    ours, theirs = calibrated_pair(name)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(x)
        error = (ours(x) - expected).abs().max() / expected.abs().max()
        sensitivity = (theirs(x.flip(0)) - expected).abs().max() / expected.abs().max()
        assert error < 1e-10
        assert sensitivity > 1e3 * 1e-10
        assert sensitivity > 0.01, "calibrated, the output follows the input"
        expected = theirs.float()(x.float())
        assert (ours.float()(x.float()) - expected).abs().max() / expected.abs().max() < 1e-5


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_equals_torchvision(name):
    check_parity(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"])
def test_equals_torchvision_in_every_size(name):
    check_parity(name)


def test_gradients_equal_torchvisions():
    ours, theirs = calibrated_pair("resnet18")
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    ours.train()(x).square().sum().backward()
    theirs.train()(x).square().sum().backward()
    for name, parameter in ours.named_parameters():
        expected = theirs.get_parameter(torchvision_name(name)).grad
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-8, atol=1e-8 * expected.abs().max().item())


def test_features_are_the_stages():
    model = create_model("resnet18", in_channels=1, num_classes=5).eval()
    maps = model.features(torch.randn(1, 1, 96, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 24, 16), (128, 12, 8), (256, 6, 4), (512, 3, 2)]
    assert [info.stride for info in model.feature_info] == [4, 8, 16, 32]


def test_too_small_images_are_refused_in_one_line():
    with pytest.raises(FieldguideError, match=r"ResNet takes images .* at least 32 pixels, got \(1, 3, 28, 28\)"):
        create_model("resnet18")(torch.zeros(1, 3, 28, 28))
    assert create_model("resnet_mini").eval()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize("wrong", [{"depths": (2, 2)}, {"reduction": 48}])
def test_numbers_that_do_not_fit_together_are_named(wrong):
    with pytest.raises(FieldguideError, match=r"ResNet: depths=\(.*\) and widths=\(.*\) must be equally many"):
        create_model("resnet50", **wrong)


def test_zero_gammas_at_the_end_of_each_block_leave_only_the_shortcuts():
    model = create_model("resnet_mini").eval()
    for name, parameter in model.named_parameters():
        if name.endswith("conv2.norm.weight"):
            nn.init.zeros_(parameter)
    x = torch.randn(2, 1, 16, 16)
    stem = model.stem(x)
    torch.testing.assert_close(model.features(x)[0], stem)
