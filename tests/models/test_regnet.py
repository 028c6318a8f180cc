"""The rule that RegNet's widths follow, and what is particular to its blocks."""

import math

import pytest
import torch
import torchvision.models.regnet as theirs
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fieldguide.blocks.conv import SqueezeExcitation
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.models.vision.regnet import SIZES, RegNetConfig, stage_shapes

configs = st.builds(
    RegNetConfig,
    depth=st.integers(1, 40),
    w_0=st.integers(1, 40).map(lambda eighth: 8 * eighth),
    w_a=st.floats(0, 200),
    w_m=st.floats(1.5, 3),
    group_width=st.sampled_from([1, 8, 16, 24, 56, 112, 128]),
    rounding=st.sampled_from(["torchvision", "paper"]),
)


@pytest.mark.parametrize("name", SIZES)
def test_depths_and_widths_are_torchvisions(name):
    c = SIZES[name]
    expected = theirs.BlockParams.from_init_params(
        depth=c.depth, w_0=c.w_0, w_a=c.w_a, w_m=c.w_m, group_width=c.group_width
    )
    assert stage_shapes(c) == list(zip(expected.depths, expected.widths, strict=True))


def test_widths_of_the_paper():
    """Radosavovic et al. 2020, figures 15 and 16, of sizes that torchvision rounds otherwise."""
    published = {
        "regnet_x_400mf": [(1, 32), (2, 64), (7, 160), (12, 384)],
        "regnet_y_800mf": [(1, 64), (3, 128), (8, 320), (2, 768)],
        "regnet_y_8gf": [(2, 168), (4, 448), (10, 896), (1, 2016)],
    }
    for name, shapes in published.items():
        with torch.device("meta"):
            model = create_model(name, rounding="paper")
        assert stage_shapes(model.config) == shapes
        assert [info.channels for info in model.feature_info] == [width for _, width in shapes]


@given(configs)
def test_the_rule_spends_every_block_on_widths_that_grow_in_whole_groups(c):
    shapes = stage_shapes(c)
    widths = [width for _, width in shapes]
    assert sum(depth for depth, _ in shapes) == c.depth
    assert widths == sorted(widths)
    # Only a quantised width below one group is narrower than a group; it then is one group of its own.
    assert all(width % min(c.group_width, width) == 0 for width in widths)


@given(configs)
def test_quantised_widths_stay_near_the_line(c):
    """Before groups, a block's width is within half a step of the line, so within a factor of √w_m, and a rounding."""
    free = RegNetConfig(depth=c.depth, w_0=c.w_0, w_a=c.w_a, w_m=c.w_m, group_width=8)
    widths = [width for depth, width in stage_shapes(free) for _ in range(depth)]
    for block, width in enumerate(widths):
        line = free.w_0 + free.w_a * block
        assert line / math.sqrt(free.w_m) - 4.001 <= width <= line * math.sqrt(free.w_m) + 4.001


def test_torchvision_loses_at_most_a_tenth_of_a_width():
    c = SIZES["regnet_y_8gf"]
    before = [192, 424, 920, 2016]
    for (_, width), wanted in zip(stage_shapes(c), before, strict=True):
        assert width >= 0.9 * wanted
    assert stage_shapes(RegNetConfig(depth=1, w_0=192, group_width=56, rounding="paper")) == [(1, 168)]


@pytest.mark.parametrize(
    "wrong", [{"depth": 0}, {"w_0": 20}, {"w_0": 0}, {"w_a": -1.0}, {"w_m": 1.0}, {"group_width": 0}]
)
def test_numbers_of_no_growing_line_are_named(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(FieldguideError, match=rf"RegNet: .*{name}={value}"):
        create_model("regnet_x_400mf", **wrong)


def test_squeeze_is_a_quarter_of_what_enters_the_block():
    with torch.device("meta"):
        model = create_model("regnet_y_400mf")
    gates = [module for module in model.modules() if isinstance(module, SqueezeExcitation)]
    assert [gate.squeeze.out_channels for gate in gates[:3]] == [8, 12, 26]  # of 32, 48 and 104
    with torch.device("meta"):
        plain = create_model("regnet_x_400mf")
    assert not any(isinstance(module, SqueezeExcitation) for module in plain.modules())


def test_only_the_first_block_of_a_stage_halves_the_map():
    model = create_model("regnet_x_400mf", num_classes=5).eval()
    maps = model.features(torch.randn(1, 3, 96, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(32, 24, 16), (64, 12, 8), (160, 6, 4), (400, 3, 2)]
    strided = [
        name for name, module in model.named_modules() if isinstance(module, nn.Conv2d) and module.stride[0] == 2
    ]
    assert strided == ["stem.conv", *(f"stages.{i}.0.{part}.conv" for i in range(4) for part in ("conv", "shortcut"))]


def test_too_small_images_are_refused_in_one_line():
    with pytest.raises(FieldguideError, match=r"RegNet takes images .* at least 32 pixels, got \(1, 3, 28, 28\)"):
        create_model("regnet_x_400mf")(torch.zeros(1, 3, 28, 28))
    assert create_model("regnet_mini").eval()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
