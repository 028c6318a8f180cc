"""The layer table against arithmetic, and against the figures that torchvision publishes."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.masks import Causal, Chunked, Global, Strided, Window
from fieldguide.profile import layer_table


def test_linear_layers_by_hand():
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5, bias=False))
    table = layer_table(model, torch.zeros(8, 10))
    first, relu, second = table.rows(depth=1)
    assert [first.name, first.kind, first.output, first.parameters] == ["0", "Linear", (8, 20), 220]
    assert [first.flops, relu.flops, second.flops] == [2 * 8 * 10 * 20, 0, 2 * 8 * 20 * 5]
    # Backward needs the input of each Linear (the example itself is not counted) and the ReLU's result: one tensor.
    assert [first.activation_bytes, relu.activation_bytes, second.activation_bytes] == [0, 8 * 20 * 4, 0]
    assert table.total.flops == first.flops + second.flops
    assert table.parameter_bytes == (220 + 100) * 4


def test_convolution_by_hand():
    table = layer_table(nn.Conv2d(3, 8, 5, stride=2, padding=2, groups=1), torch.zeros(2, 3, 16, 16))
    assert table.total.output == (2, 8, 8, 8)
    assert table.total.flops == 2 * (2 * 8 * 8 * 8) * (3 * 5 * 5)


def test_attention_counts_scores_and_sums_and_keeps_no_square_of_the_length():
    class Attend(nn.Module):
        def forward(self, q):
            return nn.functional.scaled_dot_product_attention(q, q, q)

    q = torch.zeros(1, 2, 512, 16, requires_grad=True)
    total = layer_table(Attend(), q).total
    assert total.flops == 2 * (2 * 2 * 512 * 512 * 16)
    assert total.activation_bytes < 2 * 512 * 512 * 4 / 4


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vit_b_32"])
def test_flops_are_those_that_torchvision_publishes(name):
    """Published in 10⁹ multiply-adds for one 224×224 image."""
    published = torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"]
    with torch.device("meta"):
        model = torchvision.models.get_model(name, weights=None)
    total = layer_table(model, torch.empty(1, 3, 224, 224)).total
    assert total.flops / 2e9 == pytest.approx(published, abs=6e-4)


def test_activations_are_what_autograd_really_keeps():
    model = torchvision.models.resnet18(weights=None)
    x = torch.randn(2, 3, 64, 64)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), x)}
    kept = {}

    def keep(t):
        kept[t.untyped_storage().data_ptr()] = t  # keeps it alive too, so that no address is used twice
        return t

    expected = copy.deepcopy(model)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        model(x)
    measured = sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)
    assert layer_table(expected, x).total.activation_bytes == measured


def test_the_module_is_left_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    before = copy.deepcopy(model.state_dict())
    layer_table(model, torch.randn(2, 1, 8, 8))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert model(torch.randn(2, 1, 8, 8)).isfinite().all()


def test_a_shared_module_counts_every_call_and_its_weights_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(self.layer(x))

    table = layer_table(Twice(), torch.zeros(1, 4))
    assert table.total.parameters == 20
    assert table.rows(1)[0].flops == table.total.flops == 2 * (2 * 4 * 4)


def test_several_inputs_and_whole_numbers():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(10, 4)

        def forward(self, tokens, scale):
            return self.table(tokens) * scale, tokens

    table = layer_table(Two(), (torch.tensor([[1, 2]]), torch.ones(1)))
    assert table.total.output == (), "not a single tensor"
    assert table.rows(1)[0].output == (1, 2, 4)


def test_rows_cover_the_model_without_overlap():
    with torch.device("meta"):
        model = torchvision.models.resnet18(weights=None)
    table = layer_table(model, torch.empty(1, 3, 64, 64))
    for depth in (1, 2, 3):
        assert sum(row.parameters for row in table.rows(depth)) == table.total.parameters
        assert sum(row.flops for row in table.rows(depth)) == table.total.flops


def test_measuring_leaves_nothing_fake_behind():
    """Masks may be kept between calls; one that was made while measuring must not reach a real forward."""
    for mask in (Causal(), Window(8), Causal() & Window(8), Strided(4), Chunked(8), Global((0,)) | Window(4)):
        model, x = Attention(16, 2, mask=mask).eval(), torch.randn(1, 64, 16)
        layer_table(model, x)
        with torch.no_grad():
            assert model(x).isfinite().all()
