"""LeNet-5 in both forms: its shapes, its arithmetic, its errors."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from fieldguide.blocks.conv import ScaledTanh, TableConv2d
from fieldguide.blocks.pooling import SubSampling
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.models.vision.lenet import TABLE_I


def layer_counts(model):
    layers = [module for module in model.modules() if not list(module.children()) and list(module.parameters())]
    return [sum(p.numel() for p in layer.parameters()) for layer in layers]


def test_parameters_layer_by_layer():
    """C1 156, C3 2,416 with every map connected, C5 48,120, F6 10,164, output 850."""
    assert layer_counts(create_model("lenet5")) == [156, 2416, 48120, 10164, 850]


def test_parameters_of_1998_layer_by_layer():
    """C1 156, S2 12, C3 1,516, S4 32, C5 48,120, F6 10,164; 840 fixed numbers in the output."""
    model = create_model("lenet5_1998")
    assert layer_counts(model) == [156, 12, 1516, 32, 48120, 10164]
    assert model.head.codes.numel() == 840


def test_names_in_files_stay():
    names = [f"stages.{i}.0" for i in range(2)] + ["hidden.1", "hidden.3", "head"]
    assert list(create_model("lenet5").state_dict()) == [f"{n}.{leaf}" for n in names for leaf in ("weight", "bias")]


@pytest.mark.parametrize("name", ["lenet5", "lenet5_1998"])
def test_maps_have_the_papers_sizes(name):
    maps = create_model(name).features(torch.randn(2, 1, 32, 32))
    assert [tuple(m.shape) for m in maps] == [(2, 6, 14, 14), (2, 16, 5, 5)]


@pytest.mark.parametrize("side", [28, 36])
def test_other_image_sizes_are_refused(side):
    with pytest.raises(FieldguideError, match=rf"LeNet takes images of 32×32 pixels, got \(1, 1, {side}, {side}\)"):
        create_model("lenet5")(torch.zeros(1, 1, side, side))


def test_other_channels_are_refused():
    with pytest.raises(FieldguideError, match=r"LeNet takes images \(batch, 3, "):
        create_model("lenet5", in_channels=3)(torch.zeros(1, 1, 32, 32))


# ---------------------------------------------------------------------------------------------------------------- 1998


def test_table_one_connects_every_map_of_s2_ten_times():
    assert [len(maps) for maps in TABLE_I] == [3] * 6 + [4] * 9 + [6]
    assert len({frozenset(maps) for maps in TABLE_I}) == 16
    assert ["".join(TABLE_I).count(i) for i in "012345"] == [10] * 6


def test_c3_is_a_dense_convolution_with_the_other_kernels_at_zero():
    conv = create_model("lenet5_1998").double().stages[1][0]
    x = torch.randn(2, 6, 14, 14, dtype=torch.float64)
    mask = torch.tensor([[float(str(i) in maps) for i in range(6)] for maps in TABLE_I])[..., None, None]
    dense = torch.randn(16, 6, 5, 5, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():  # connected kernels lie in the weight map by map, in the table's order
        kernels = iter(conv.weight)
        for output, maps in enumerate(TABLE_I):
            for i in maps:
                dense[output, int(i)] = next(kernels)
    expected = functional.conv2d(x, dense * mask, conv.bias)
    torch.testing.assert_close(conv(x), expected)
    conv(x).square().sum().backward()
    expected.square().sum().backward()
    theirs = [dense.grad[output, int(i)] for output, maps in enumerate(TABLE_I) for i in maps]
    torch.testing.assert_close(conv.weight.grad, torch.stack(theirs))


def test_a_table_that_names_maps_that_are_not_there_is_refused():
    with pytest.raises(FieldguideError, match="TableConv2d: connections name maps that 2 input channels do not have"):
        TableConv2d(2, [[0, 1], [1, 2]], 3)


def test_the_squashing_function():
    f = ScaledTanh()
    x = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(f(x), x, rtol=0, atol=1e-4)
    far = f(torch.tensor([1e3], dtype=torch.float64))
    torch.testing.assert_close(far, torch.full_like(far, 1.7159))
    # The second derivative is greatest near ±1 (appendix A).
    grid = torch.linspace(0, 3, 301, dtype=torch.float64)
    curvature = f(grid).diff(n=2).abs()
    assert 0.9 < grid[1 + curvature.argmax()] < 1.1


def test_sub_sampling_is_a_scaled_and_shifted_mean():
    layer = SubSampling(3).double()
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    kernel = layer.weight[:, None, None, None].expand(3, 1, 2, 2) / 4
    torch.testing.assert_close(layer(x), functional.conv2d(x, kernel, layer.bias, stride=2, groups=3))


def test_gradients_reach_everything_that_is_trained():
    model = create_model("lenet5_1998")
    functional.cross_entropy(model(torch.randn(4, 1, 32, 32)), torch.arange(4)).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_other_maps_than_table_ones_are_refused():
    with pytest.raises(FieldguideError, match=r"LeNet: table I connects 6 with 16 maps, got maps=\(4, 12\)"):
        create_model("lenet5_1998", maps=(4, 12))


def test_learns_digits_in_three_passes():
    digits = load_digits()
    images = functional.interpolate(torch.tensor(digits.images[:, None] / 8 - 1, dtype=torch.float32), (32, 32))
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    model = create_model("lenet5_1998")
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(3):
        for batch in torch.randperm(1400).split(32):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        assert (model(images[1400:]).argmax(1) == labels[1400:]).float().mean() > 0.8, "chance is 0.1"
