"""What is particular to ResNet: its gradients, its shortcuts, and the sizes for small images."""

import pytest
import torch
import torchvision
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.weights import export_weights, load_weights


def test_gradients_equal_torchvisions():
    ours, theirs = create_model("resnet18").double(), torchvision.models.resnet18().double()
    load_weights(ours, theirs.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    ours.train()(x).square().sum().backward()
    theirs.train()(x).square().sum().backward()
    for parameter in ours.parameters():
        parameter.data = parameter.grad
    gradients = export_weights(ours, "torchvision")
    for name, parameter in theirs.named_parameters():
        expected = parameter.grad
        torch.testing.assert_close(gradients[name], expected, rtol=1e-8, atol=1e-8 * expected.abs().max().item())


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


@pytest.mark.parametrize(("name", "layers"), [("resnet20_cifar", 20), ("resnet32_cifar", 32), ("resnet44_cifar", 44)])
def test_sizes_for_small_images_have_the_layers_of_their_name_and_no_projection(name, layers):
    """§4.2: 6n + 2 layers with weights, the last of them linear; halving the map doubles the channels."""
    model = create_model(name)
    weighted = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(weighted) == layers
    assert not list(model.stages[1][0].shortcut.parameters())
    maps = model.features(torch.randn(1, 3, 32, 32))
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_a_bottleneck_can_subsample_too():
    model = create_model("resnet50", shortcut="subsample", num_classes=3).eval()
    assert "shortcut" not in " ".join(model.state_dict())
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 3)


def test_widths_that_fall_need_a_projection():
    with pytest.raises(FieldguideError, match="64 channels cannot become 32 by adding zeros"):
        create_model("resnet20_cifar", widths=(64, 32, 16))
