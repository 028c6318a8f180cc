"""Two opinions on the same number: PyTorch's counter and the formulas of the layers."""

import pytest
import torch
from torch import nn

import fieldguide as fg
from fieldguide import catalog
from fieldguide.blocks.cores import Linear
from fieldguide.blocks.masks import Causal, Chunked, Full, Global, Strided, Window
from fieldguide.cli.examples import sample_of
from fieldguide.profile import layer_table
from fieldguide.profile.operations import operations_of

EVERYONE = pytest.mark.parametrize("family", [row.family for row in catalog.ARCHITECTURES])


@EVERYONE
def test_both_agree_on_every_network_of_the_catalog(family):
    model, example, _ = sample_of(f"{family}_mini", batch=2)
    for mode in (True, False):
        table = layer_table(model.train(mode), example)
        assert [x.name for x in table.layers if x.flops != x.formula_flops] == []
    assert table.total.flops == sum(operation.flops for operation in operations_of(model, example))


@pytest.mark.parametrize("head", ["masked_lm", "classify"])
def test_both_agree_on_heads(head):
    total = layer_table(fg.create_model("bert_mini", head=head), torch.full((2, 9), 5)).total
    assert total.formula_flops == total.flops > 0


@pytest.mark.parametrize(
    "mask",
    [Full(), Causal(), Window(32), Causal() & Window(32), Strided(16), Chunked(64), Global((0,)) | Window(16)],
    ids=str,
)
def test_both_agree_on_what_a_mask_leaves(mask):
    total = layer_table(fg.Attention(16, 2, mask=mask).eval(), torch.randn(2, 1024, 16)).total
    assert total.formula_flops == total.flops


@pytest.mark.parametrize("n", [7, 200, 1500])
def test_both_agree_on_causal_sums(n):
    total = layer_table(fg.Attention(16, 2, mask=Causal(), core=Linear()), torch.randn(2, n, 16)).total
    assert total.formula_flops == total.flops


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 5, 5)),
        (nn.Conv1d(4, 6, 3, dilation=2), (2, 4, 9)),
        (nn.Conv3d(2, 4, 3, padding=1), (1, 2, 4, 4, 4)),
    ],
)
def test_both_agree_on_convolutions(layer, shape):
    total = layer_table(layer, torch.randn(shape)).total
    assert total.formula_flops == total.flops > 0


def test_a_product_outside_the_known_layers_is_named():
    class Squared(nn.Module):
        def forward(self, x):
            return x @ x.transpose(-2, -1)

    found = fg.complexity(nn.Sequential(nn.Linear(4, 4), Squared()), torch.zeros(3, 4))
    assert (found.flops, found.formula_flops) == (2 * 3 * 16 + 2 * 3 * 3 * 4, 2 * 3 * 16)
    assert found.unexplained == ("1",)


def test_what_asks_for_numbers_is_counted_on_numbers():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(self.layer(x)) if x.sum() > 0 else self.layer(x)

    assert layer_table(Twice(), torch.ones(1, 4)).total.flops == 2 * (2 * 16)
    assert layer_table(Twice(), -torch.ones(1, 4)).total.flops == 2 * 16
