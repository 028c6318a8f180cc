import torch
from torch import nn

from fieldguide.optim import parameter_groups


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
