"""Sizes, counted, and the powers with which costs grow."""

import pytest
import torch
from torch import nn

import fieldguide as fg
from fieldguide.blocks.cores import Linear
from fieldguide.blocks.masks import Causal, Full, Window
from fieldguide.cli.examples import sample_of


@pytest.mark.parametrize(
    ("mask", "core", "power"),
    [(Full(), None, 2), (Causal(), None, 2), (Window(32), None, 1), (Causal(), Linear(), 1)],
    ids=["full", "causal", "window", "linear"],
)
def test_attention_grows_with_what_its_mask_leaves(mask, core, power):
    growth = fg.complexity(fg.Attention(8, 2, mask=mask, core=core), torch.empty(1, 1024, 8)).growth
    assert growth.axis == "length"
    assert growth.sizes == (1024, 2048, 3072, 4096)
    assert growth.exponent == pytest.approx(power, abs=0.1)
    assert growth.predicted == pytest.approx(growth.exponent, abs=0.1)
    assert growth.memory_exponent == pytest.approx(1, abs=0.1), "no kernel keeps the square"


def test_convolutions_grow_with_the_area():
    growth = fg.complexity(nn.Conv2d(3, 8, 3, padding=1), torch.empty(1, 3, 32, 32)).growth
    assert growth.axis == "image side"
    assert growth.exponent == growth.predicted == pytest.approx(2)


def test_a_network_for_one_size_is_built_for_each():
    model, example, build = sample_of("vit_mini")
    assert fg.complexity(model, example, build=build).growth.sizes == (32, 64, 96, 128)
    assert fg.complexity(model, example).growth is None


def test_a_network_that_takes_no_more_is_made_smaller():
    model, example, _ = sample_of("gpt_mini")
    assert fg.complexity(model, example).growth.sizes == (32, 64, 96, 128)


def test_sizes_may_be_chosen():
    growth = fg.complexity(nn.Conv2d(1, 1, 1), torch.empty(1, 1, 8, 8), sizes=(10, 20)).growth
    assert growth.flops == (2 * 100, 2 * 400)
    with pytest.raises(fg.FieldguideError, match="no length and no image side"):
        fg.complexity(nn.Linear(4, 4), torch.empty(2, 4), sizes=(8,))


def test_tied_weights_count_once_and_frozen_ones_do_not_train():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    found = fg.complexity(model, torch.zeros(1, 4))
    assert (found.parameters, found.trainable) == (16 + 10, 16 + 8)
    assert found.growth is None


def test_nothing_needs_to_exist():
    with torch.device("meta"):
        model, example = nn.Conv2d(3, 8, 3), torch.empty(1, 3, 64, 64)
    assert fg.complexity(model, example).flops == 2 * (8 * 62 * 62) * 27
