import pytest
import torch
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.optim import parameter_groups
from fieldguide.optim.groups import layers


class Tokens(nn.Module):
    """A little of everything that should not be decayed."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(11, 8)
        self.class_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.positions = nn.Parameter(torch.zeros(1, 5, 8))
        self.relative_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.layer_scale = nn.Parameter(torch.ones(1, 8))
        self.patch = nn.Conv2d(3, 8, 2)
        self.norm = nn.LayerNorm(8)
        self.batch_norm = nn.BatchNorm2d(8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.tokens.weight


def _names(model, weight_decay=0.1):
    return {group["group"]: [name for name, _ in group["params"]] for group in parameter_groups(model, weight_decay)}


def test_only_kernels_and_matrices_decay():
    names = _names(Tokens())
    assert sorted(names["decay"]) == ["attention.in_proj_weight", "attention.out_proj.weight", "patch.weight"]
    assert "tokens.weight" in names["no_decay"]
    assert {"class_token", "positions", "relative_bias_table", "layer_scale"} <= set(names["no_decay"])


def test_every_trainable_parameter_is_in_one_group_once():
    model = Tokens()
    model.patch.requires_grad_(False)
    grouped = [parameter for group in parameter_groups(model, 0.1) for _, parameter in group["params"]]
    assert len({id(p) for p in grouped}) == len(grouped)
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters() if p.requires_grad}


def test_decay_is_zero_where_it_should_be():
    assert [group["weight_decay"] for group in parameter_groups(Tokens(), 0.1)] == [0.1, 0.0]


def test_a_module_without_vectors_has_one_group():
    assert list(_names(nn.Linear(3, 2, bias=False))) == ["decay"]


def _scales(model, **options):
    return {name: group["lr_scale"] for group in parameter_groups(model, 0.1, **options) for name, _ in group["params"]}


def test_without_layer_decay_there_are_two_groups_of_the_whole_rate():
    assert [(group["group"], group["lr_scale"]) for group in parameter_groups(create_model("vit_mini"), 0.1)] == [
        ("decay", 1.0),
        ("no_decay", 1.0),
    ]


def test_a_transformers_layers_are_embeddings_each_block_and_the_head_with_the_last_norm():
    scales = _scales(create_model("vit_mini"), layer_decay=0.5)
    assert {name: scales.pop(name) for name in [*scales] if "layers" not in name} == {
        **dict.fromkeys(["class_token", "positions.weight", "patches.projection.weight"], 0.5**5),
        "patches.projection.bias": 0.5**5,
        **dict.fromkeys(["encoder.norm.weight", "encoder.norm.bias", "head.weight", "head.bias"], 1.0),
    }
    assert {(int(name.split(".")[2]), scale) for name, scale in scales.items()} == {
        (block, 0.5 ** (4 - block)) for block in range(4)
    }


def test_a_residual_networks_layers_are_stem_stages_and_head():
    scales = _scales(create_model("resnet_mini"), layer_decay=0.5)
    expected = {"stem": 0.5**4, "stages.0": 0.5**3, "stages.1": 0.5**2, "stages.2": 0.5, "head": 1.0}
    assert {name: next(expected[part] for part in expected if name.startswith(part)) for name in scales} == scales


def test_norms_of_a_plain_sequence_belong_to_the_layer_before_and_frozen_layers_count():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
    )
    model[3].requires_grad_(False)
    scales = _scales(model, layer_decay=0.5)
    assert {name.split(".")[0]: scale for name, scale in scales.items()} == {"0": 0.25, "1": 0.25, "4": 0.5, "5": 1.0}
    assert _scales(nn.Linear(3, 2), layer_decay=0.5) == {"weight": 1.0, "bias": 1.0}


def test_without_lists_each_part_is_a_layer_and_own_parameters_belong_to_the_first():
    model = nn.Module()
    model.scale = nn.Parameter(torch.ones(3))
    model.conv, model.norm, model.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)
    assert layers(model) == [
        ["scale", "conv.weight", "conv.bias", "norm.weight", "norm.bias"],
        ["head.weight", "head.bias"],
    ]


def test_explicit_rates_hold_instead_and_the_first_match_wins():
    model, rates = create_model("resnet_mini"), {"stem": 0.3, "stem|stages.0": 0.1, "head": 10.0}
    scales = _scales(model, layer_decay=0.5, rates=rates)
    assert (scales["stem.conv.weight"], scales["head.bias"]) == (0.3, 10)
    assert {scale for name, scale in scales.items() if name.startswith("stages.0")} == {0.1}
    assert {scale for name, scale in scales.items() if name.startswith("stages.2")} == {0.5}
    assert {scale for name, scale in _scales(model, rates=rates).items() if name.startswith("stages.2")} == {1.0}


def test_rates_reach_a_shared_parameter_by_any_of_its_names():
    assert _scales(Tokens(), rates={"head": 0.5})["tokens.weight"] == 0.5


def test_rates_out_of_range_and_patterns_without_parameters_are_refused():
    model = create_model("resnet_mini")
    for layer_decay in (0.0, 1.5):
        with pytest.raises(FieldguideError, match=r"layer_decay=.* must be above 0 and at most 1"):
            parameter_groups(model, 0.1, layer_decay=layer_decay)
    with pytest.raises(FieldguideError, match=r"the rate of 'stem' is 0\.0; freeze what"):
        parameter_groups(model, 0.1, rates={"stem": 0.0})
    with pytest.raises(FieldguideError, match="'sten' selects no parameter of ResNet; did you mean 'stem'"):
        parameter_groups(model, 0.1, rates={"sten": 0.5})
