"""Norms against their equations in float64, for 1-D to 3-D data."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldguide.blocks.norms import BatchNorm, ChannelFirst, GroupNorm, LayerNorm, RMSNorm
from fieldguide.errors import FieldguideError

SPATIAL = [(), (7,), (5, 6), (3, 4, 5)]


def scaled_input(spatial, channels=12):
    torch.manual_seed(len(spatial))
    return 3 * torch.randn(4, channels, *spatial, dtype=torch.float64) + 2


def with_random_affine(norm):
    for parameter in norm.parameters():
        torch.nn.init.uniform_(parameter, 0.5, 2)
    return norm.double()


def affine(norm, x, spatial):
    shape = (1, -1, *[1] * len(spatial))
    return x * norm.weight.view(shape) + norm.bias.view(shape)


@pytest.mark.parametrize("spatial", SPATIAL)
def test_batch_norm_equation(spatial):
    x, norm = scaled_input(spatial), with_random_affine(BatchNorm(12))
    axes = (0, *range(2, x.ndim))
    centred = x - x.mean(axes, keepdim=True)
    expected = affine(norm, centred / (centred.pow(2).mean(axes, keepdim=True) + 1e-5).sqrt(), spatial)
    torch.testing.assert_close(norm(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spatial", SPATIAL)
def test_batch_norm_evaluates_with_running_statistics(spatial):
    x, norm = scaled_input(spatial), BatchNorm(12, momentum=None).double()
    norm(x)
    axes = (0, *range(2, x.ndim))
    variance, mean = torch.var_mean(x, axes, keepdim=True)
    torch.testing.assert_close(norm.eval()(x[:1]), (x[:1] - mean) / (variance + 1e-5).sqrt(), rtol=0, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(groups=st.sampled_from([1, 2, 3, 4, 6, 12]), spatial=st.sampled_from(SPATIAL[1:]))
def test_group_norm_equation(groups, spatial):
    x, norm = scaled_input(spatial), with_random_affine(GroupNorm(groups, 12))
    grouped = x.reshape(4, groups, -1)
    centred = grouped - grouped.mean(-1, keepdim=True)
    expected = (centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()).view_as(x)
    torch.testing.assert_close(norm(x), affine(norm, expected, spatial), rtol=0, atol=1e-12)


@pytest.mark.parametrize("spatial", SPATIAL)
def test_channel_first_norms_normalise_each_position(spatial):
    x = scaled_input(spatial)
    centred = x - x.mean(1, keepdim=True)
    layer, rms = ChannelFirst(LayerNorm(12).double()), ChannelFirst(RMSNorm(12, eps=1e-6).double())
    expected = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    expected = x / (x.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(rms(x), expected, rtol=0, atol=1e-12)


def test_group_norm_names_the_nearest_number_of_groups_that_divides():
    with pytest.raises(FieldguideError, match=r"GroupNorm: 48 channels .* 32 .* use num_groups=24"):
        GroupNorm(32, 48)


@pytest.mark.parametrize("norm", [BatchNorm(8), GroupNorm(4, 8)], ids=["batch", "group"])
def test_wrong_channels_are_named(norm):
    with pytest.raises(FieldguideError, match=r"Norm was built for 8 channels, got \(2, 6, 5\); its axis 1"):
        norm(torch.zeros(2, 6, 5))


def test_batch_norm_of_a_single_value_is_refused_in_training_only():
    with pytest.raises(FieldguideError, match=r"larger batch or call model\.eval"):
        BatchNorm(8)(torch.zeros(1, 8, 1, 1))
    assert BatchNorm(8).eval()(torch.zeros(1, 8, 1, 1)).shape == (1, 8, 1, 1)
