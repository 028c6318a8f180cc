"""Swapping the mathematics of attention: what changes, what stays, and what is refused before anything does."""

from copy import deepcopy
from inspect import unwrap

import pytest
import torch
from torch import nn

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.biases import ALiBi, RelativeBuckets
from fieldguide.blocks.cores import Linear, Linformer, Performer, Projection, Softmax
from fieldguide.blocks.feedforward import FeedForward
from fieldguide.blocks.masks import Causal, Documents, Full, Global, Padding, Window
from fieldguide.blocks.swapping import swap_attention
from fieldguide.blocks.transformer import PreNormBlock, Stack
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model

X = torch.randn(2, 12, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def stack(bias=None, **choices) -> Stack:
    torch.manual_seed(0)
    blocks = (PreNormBlock(Attention(16, 2, **choices), FeedForward(16, 32)) for _ in range(3))
    return Stack(blocks, bias=bias).double().eval()


def cores(model: nn.Module) -> list[nn.Module]:
    return [module.core for module in model.modules() if isinstance(module, Attention)]


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_every_attention_gets_a_core_of_its_own_and_keeps_its_projections():
    model = stack()
    before, template = state(model), Performer(features=32)
    swap = swap_attention(model, template, where="layers.*")
    assert swap.changed == tuple(f"layers.{i}.attention" for i in range(3))
    assert swap.new == tuple(f"layers.{i}.attention.core.projection" for i in range(3))
    assert swap.gone == ()
    inside = [name for name in before if ".attention." in name]
    assert swap.kept == tuple(inside)
    assert len(inside) == 3 * 8, "a weight and a bias of each projection"
    assert len(set(cores(model))) == 3
    assert template not in cores(model)
    assert template.projection.numel() == 0
    after = state(model)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not torch.equal(after[swap.new[0]], after[swap.new[1]]), "each draws its own features"
    assert {core.projection.dtype for core in cores(model)} == {torch.float64}
    assert not any(core.training for core in cores(model))
    assert "3 attentions changed: layers.0.attention, " in str(swap)
    assert "kept: layers.0.attention.query.weight, " in str(swap)
    assert " and 21 more" in str(swap)
    assert "new, not trained: layers.0.attention.core.projection, " in str(swap)


def test_cores_with_parameters_are_not_shared():
    model = stack()
    swap = swap_attention(model, Linformer(Projection(12, 4)))
    parameters = dict(model.named_parameters())
    assert [parameters[name].numel() for name in swap.new] == [48] * 3
    assert len({id(parameters[name]) for name in swap.new}) == 3
    back = swap_attention(model, Softmax())
    assert back.new == ()
    assert back.gone == swap.new
    assert "gone: layers.0.attention.core.keys.weight" in str(back)
    torch.testing.assert_close(model(X), stack()(X), rtol=0, atol=0)


def test_a_core_of_the_same_kind_is_new_all_the_same():
    model = stack()
    first = swap_attention(model, Performer(features=8))
    second = swap_attention(model, Performer(features=8))
    assert second.new == second.gone == first.new


def test_it_computes_with_the_new_core():
    model, full = stack(), stack()
    swap_attention(model, Performer(features=20_000))
    assert 0 < (model(X) - full(X)).abs().max() < 0.05
    swap_attention(model, Linear())
    assert (model(X) - full(X)).abs().max() > 1e-3


@pytest.mark.parametrize("where", ["layers.1", "layers.1.attention", "*.1.*"])
def test_a_pattern_names_attentions_or_what_holds_them(where):
    model = stack()
    assert swap_attention(model, Linear(), where=where).changed == ("layers.1.attention",)
    assert [type(core) for core in cores(model)] == [Softmax, Linear, Softmax]


def test_an_attention_in_several_places_changes_once():
    attention = Attention(16, 2)
    model = nn.ModuleDict({"a": attention, "b": attention})
    assert swap_attention(model, Performer(8)).changed == ("a",)
    assert swap_attention(attention, Performer(8)).changed == ("",)


def test_a_mask_takes_the_place_of_the_old_one():
    model, pattern = stack(), Window(3) | Global([0])
    swap = swap_attention(model, mask=pattern, where="layers.0-1")
    assert (swap.changed, swap.new, swap.gone) == (("layers.0.attention", "layers.1.attention"), (), ())
    assert [layer.attention.mask for layer in model.layers] == [pattern, pattern, Full()]
    expected = stack()
    for layer in expected.layers[:2]:
        layer.attention.mask = pattern
    assert torch.equal(model(X), expected(X))
    swap_attention(model, mask=Causal() & Window(3))
    swap_attention(model, mask=Causal())
    moved = X.clone()
    moved[:, 6:] = 0
    torch.testing.assert_close(model(X)[:, :6], model(moved)[:, :6], rtol=0, atol=1e-12)


def test_dropout_can_be_taken_away_with_it():
    model = stack(dropout=0.1)
    with pytest.raises(FieldguideError, match=r"layers.0.attention: Performer .* dropout=0.1"):
        swap_attention(model, Performer(8))
    swap = swap_attention(model, Performer(8), dropout=0.0)
    assert swap.undropped == swap.changed
    assert "dropout of attention weights is 0 now: layers.0.attention, " in str(swap)
    model.train()
    assert torch.equal(model(X), model(X))


@pytest.mark.parametrize(
    ("model", "core", "mask", "message"),
    [
        (stack(mask=Causal()), Linformer(Projection(12, 4)), None, r"cannot honour mask=Causal\(\)"),
        (stack(), Linear(), Window(3), r"Linear attention cannot honour mask=Window\(3\)"),
        (stack(bias=ALiBi(2)), Performer(8), None, "cannot honour bias=ALiBi"),
        (stack(bias=RelativeBuckets(2)), Performer(8), None, "cannot honour bias=RelativeBuckets"),
        (
            stack(mask=Causal()),
            None,
            Window(3) | Global([0]),
            r"see the future; use mask=Causal\(\) & \(Window\(3\) \|",
        ),
        (stack(), None, Padding(torch.ones(2, 12, dtype=torch.bool)), "holds the data of one batch"),
        (stack(), None, Causal() & Documents(torch.zeros(2, 12, dtype=torch.long)), "holds the data of one batch"),
        (stack(), Performer(8, head_dim=4), None, "head width 8, but the random features have width 4"),
    ],
)
def test_what_cannot_be_honoured_is_refused_in_one_line_before_anything_changes(model, core, mask, message):
    before = deepcopy(model)
    with pytest.raises(FieldguideError, match=f"swap_attention: layers.*.attention: .*{message}") as caught:
        swap_attention(model, core, mask=mask)
    assert "\n" not in str(caught.value)
    assert repr(model) == repr(before)
    assert state(model).keys() == state(before).keys()


def test_one_attention_that_cannot_leaves_all_as_they_are():
    model = stack()
    model.layers[2].attention.bias = ALiBi(2)
    with pytest.raises(FieldguideError, match=r"layers.2.attention: .*bias=ALiBi"):
        swap_attention(model, Performer(8))
    assert {type(core) for core in cores(model)} == {Softmax}


def test_nothing_to_change_is_refused():
    with pytest.raises(FieldguideError, match="give a core, a mask or a dropout"):
        swap_attention(stack())
    with pytest.raises(FieldguideError, match="'layer' selects no Attention"):
        swap_attention(stack(), Linear(), where="layer")
    for wrong in ("performer", Performer, nn.Linear(2, 2)):
        with pytest.raises(FieldguideError, match="is not a core"):
            unwrap(swap_attention)(stack(), wrong)  # without the type checks of the test runner


def test_a_network_of_the_catalog():
    model = create_model("vit_mini").eval()
    x = torch.randn(2, 1, 32, 32)
    before = model(x)
    swap = swap_attention(model, core=Performer(features=4096), where="encoder.layers.*")
    assert len(swap.changed) == 4
    assert (model(x) - before).abs().max() < 0.05
