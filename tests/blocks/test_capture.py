"""What capture shows is what attention did, and attention does not notice."""

import pytest
import torch
from torch import nn

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.biases import ALiBi
from fieldguide.blocks.cache import DynamicCache
from fieldguide.blocks.capture import capture
from fieldguide.blocks.cores import Linear, Linformer, Performer, Projection, Softmax
from fieldguide.blocks.masks import Causal, Chunked, Full, Mask, Padding, Strided, Window
from fieldguide.errors import FieldguideError

EXACT = {"rtol": 0, "atol": 1e-12}


class Pair(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.first, self.second = Attention(16, 4, **settings), Attention(16, 4, **settings)

    def forward(self, x: torch.Tensor, mask: Mask = Full()) -> torch.Tensor:
        return self.second(self.first(x, mask=mask), mask=mask)


def weights_by_hand(layer: Attention, x: torch.Tensor, mask: Mask = Full()) -> torch.Tensor:
    n = x.shape[1]
    q, k = (part(x).view(len(x), n, -1, layer.head_dim).transpose(1, 2) for part in (layer.query, layer.key))
    scores = q @ k.repeat_interleave(layer.num_heads // layer.num_kv_heads, 1).mT / layer.head_dim**0.5
    scores = scores if layer.bias is None else scores + layer.bias(n, n)
    return scores.masked_fill(~(layer.mask & mask).dense(n), -torch.inf).softmax(-1).nan_to_num(0.0)


@pytest.mark.parametrize("structure", [Full(), Causal(), Causal() & Window(40), Chunked(64), Strided(17)], ids=str)
@pytest.mark.parametrize("settings", [{}, {"num_kv_heads": 2, "bias": ALiBi(4)}], ids=["plain", "grouped"])
def test_weights_equal_a_dense_reference_whatever_the_kernel(structure: Mask, settings: dict):
    torch.manual_seed(0)
    model = Pair(mask=structure, **settings).double().eval()
    x, padding = torch.randn(2, 300, 16, dtype=torch.float64), Padding(torch.rand(2, 300) > 0.2)
    with capture(model, "attention") as maps:
        model(x, padding)
    assert list(maps) == ["first", "second"]
    torch.testing.assert_close(maps["first"], weights_by_hand(model.first, x, padding), **EXACT)
    torch.testing.assert_close(
        maps["second"], weights_by_hand(model.second, model.first(x, mask=padding), padding), **EXACT
    )


@pytest.mark.parametrize("core", [Softmax, Linear, lambda: Performer(24), lambda: Linformer(Projection(40, 5))])
def test_captured_weights_reproduce_the_output_of_every_core(core):
    torch.manual_seed(0)
    layer, x = Attention(16, 4, core=core()).double().eval(), torch.randn(2, 33, 16, dtype=torch.float64)
    with capture(layer) as maps:
        y = layer(x)
    values = layer.value(x).view(2, 33, 4, 4).transpose(1, 2)
    torch.testing.assert_close(layer.output((maps[""] @ values).transpose(1, 2).flatten(2)), y, **EXACT)


def test_outputs_gradients_and_random_numbers_are_untouched_and_nothing_stays():
    model, x, results = Pair(dropout=0.3, mask=Causal()), torch.randn(2, 20, 16), []
    for captured in (False, True, False):
        torch.manual_seed(1)
        if captured:
            with capture(model) as maps:
                y = model(x)
        else:
            y = model(x)
        results.append([y, *torch.autograd.grad(y.sum(), list(model.parameters())), torch.rand(1)])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    assert len(maps) == 2
    assert not any(weights.requires_grad for weights in maps.values())
    hooks = [hook for module in model.modules() for hook in (*module._forward_pre_hooks, *module._forward_hooks)]
    assert not hooks


def test_hooks_go_when_the_model_fails():
    model = Pair()
    with pytest.raises(FieldguideError), capture(model):
        model(torch.randn(1, 3, 5))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_query_that_sees_nothing_has_zero_weights_and_nan_is_shown():
    keep = torch.ones(1, 5, dtype=torch.bool)
    keep[0, :2] = False
    layer, x = Attention(16, 4, mask=Causal()), torch.randn(1, 5, 16)
    with capture(layer) as maps:
        layer(x, mask=Padding(keep))
    assert not maps[""][:, :, :2].any()
    torch.testing.assert_close(maps[""][:, :, 2:].sum(-1), torch.ones(1, 4, 3))
    with capture(layer) as maps:
        layer(x * torch.tensor([1, 1, 1, torch.nan, 1]).view(1, 5, 1))
    assert maps[""][:, :, 3].isnan().all()


def test_half_precision_weights_are_computed_in_float32():
    layer, x = Attention(16, 4), torch.randn(1, 9, 16)
    with capture(layer) as maps, torch.autocast("cpu", torch.bfloat16):
        layer(x)
    assert maps[""].dtype == torch.float32
    torch.testing.assert_close(maps[""].sum(-1), torch.ones(1, 4, 9), rtol=0, atol=1e-6)


def test_decoding_with_a_cache_shows_the_latest_step_over_all_keys():
    layer, cache, x = Attention(16, 4, mask=Causal()).double().eval(), DynamicCache(), torch.randn(1, 6, 16).double()
    with capture(layer) as maps:
        layer(x[:, :5], cache=cache)
        layer(x[:, 5:], cache=cache)
    torch.testing.assert_close(maps[""], weights_by_hand(layer, x)[:, :, 5:], **EXACT)


def test_layers_that_share_a_core_keep_their_own_weights():
    torch.manual_seed(0)
    model, x = Pair(core=Softmax()).double(), torch.randn(1, 7, 16, dtype=torch.float64)
    with capture(model, where="second") as maps:
        model(x)
    assert list(maps) == ["second"]
    torch.testing.assert_close(maps["second"], weights_by_hand(model.second, model.first(x)), **EXACT)


def test_what_is_not_there_is_named():
    with (
        pytest.raises(FieldguideError, match=r"unknown kind of capture 'atention'; did you mean 'attention'\?"),
        capture(Pair(), "atention"),
    ):
        pass
    with (
        pytest.raises(
            FieldguideError, match=r"'layers\.\*' selects no Attention of Pair \(names begin with first, second\)"
        ),
        capture(Pair(), where="layers.*"),
    ):
        pass
    with pytest.raises(FieldguideError, match="there are none"), capture(nn.Linear(2, 2)):
        pass


def test_the_pattern_language_of_every_selection():
    model = nn.ModuleDict({"layers": nn.ModuleList(Attention(16, 4) for _ in range(4)), "last": Pair()})
    model["twin"] = model["layers"][3]
    with capture(model, where="layers.1-2|last|twin") as maps:
        for layer in (*model["layers"], model["last"]):
            layer(torch.randn(1, 3, 16))
    assert list(maps) == ["layers.1", "layers.2", "twin", "last.first", "last.second"]
