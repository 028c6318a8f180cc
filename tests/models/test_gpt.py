"""GPT: what tells GPT-1, GPT-2 and GPT-3 apart, and how they begin."""

import math

import pytest
import torch
from torch import nn

from fieldguide.blocks.cache import DynamicCache
from fieldguide.blocks.masks import Causal, Window
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.models.text.gpt import GPT, SIZES, GPTConfig

SMALL = GPTConfig(vocab_size=50, max_len=24, d_model=32, num_layers=4, num_heads=4, dropout=0.0)


def test_gpt1_normalises_after_each_sublayer_and_nowhere_else():
    model = create_model("gpt1", vocab_size=50, max_len=24, d_model=32, num_layers=3, num_heads=4).double().eval()
    tokens = torch.randint(50, (2, 7))
    x = model.embeddings.tokens.weight[tokens] + model.embeddings.positions.weight[:7]
    for layer in model.decoder.layers:
        x = layer.attention_norm(x + layer.attention(x))
        x = layer.feedforward_norm(x + layer.feedforward(x))
    torch.testing.assert_close(model(tokens), x @ model.embeddings.tokens.weight.T, rtol=0, atol=1e-12)


def test_gpt2_adds_to_what_no_norm_has_touched_and_normalises_at_the_end():
    model, tokens = GPT(SMALL).double().eval(), torch.randint(50, (2, 7))
    x = model.embeddings.tokens.weight[tokens] + model.embeddings.positions.weight[:7]
    for layer in model.decoder.layers:
        x = x + layer.attention(layer.attention_norm(x))
        x = x + layer.feedforward(layer.feedforward_norm(x))
    expected = model.decoder.norm(x) @ model.embeddings.tokens.weight.T
    torch.testing.assert_close(model(tokens), expected, rtol=0, atol=1e-12)


def test_gpt3_sees_everything_and_a_band_in_turn():
    with torch.device("meta"):
        model = GPT(SIZES["gpt3_175b"])
    attentions = [layer.attention for layer in model.decoder.layers]
    assert [attention.mask for attention in attentions] == [Causal(), Causal() & Window(256)] * 48
    assert {(attention.num_heads, attention.head_dim) for attention in attentions} == {(96, 128)}


def test_a_banded_layer_reaches_as_far_as_its_band():
    c = GPTConfig(vocab_size=50, max_len=24, d_model=32, num_layers=2, num_heads=4, window=4)
    dense, banded = GPT(c).double().eval().decoder.layers
    assert reach(dense, 10) == list(range(11))
    assert reach(banded, 10) == [7, 8, 9, 10]


def reach(layer: nn.Module, token: int) -> list[int]:
    """The places whose input changes what comes out for one token."""
    x = torch.randn(1, 16, 32, dtype=torch.float64, requires_grad=True)
    layer(x)[0, token].sum().backward()
    return x.grad[0].any(-1).nonzero().flatten().tolist()


@pytest.mark.parametrize(("norm", "residual"), [("pre", 0.02 / math.sqrt(8)), ("post", 0.02)])
def test_starts_as_the_paper_says(norm, residual):
    model = GPT(GPTConfig(vocab_size=500, max_len=64, d_model=256, num_layers=4, num_heads=4, norm=norm))
    for name, parameter in model.named_parameters():
        if name.endswith(("attention.output.weight", "feedforward.contract.weight")):
            assert parameter.std().item() == pytest.approx(residual, rel=0.05), name
        elif parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float("norm.weight" in name))), name


def test_the_output_is_the_input_table():
    model = GPT(SMALL)
    assert [name for name in model.state_dict() if len(model.state_dict()[name]) == 50] == ["embeddings.tokens.weight"]
    assert torch.equal(model.logits(torch.eye(32)), model.embeddings.tokens.weight.T)


@pytest.mark.parametrize("cached", [0, 20])
def test_a_text_longer_than_the_table_of_positions_is_refused(cached):
    model, cache = GPT(SMALL).eval(), DynamicCache()
    with torch.no_grad():
        if cached:
            model(torch.zeros(1, cached).long(), cache=cache)
        with pytest.raises(
            FieldguideError, match=r"25 tokens but max_len=24; shorten the input or build .* max_len=25"
        ):
            model(torch.zeros(1, 25 - cached).long(), cache=cache)


def test_dropout_acts_in_training_only():
    tokens = torch.randint(50, (2, 7))
    model = create_model("gpt2", vocab_size=50, max_len=24, d_model=32, num_layers=2, num_heads=4)
    assert not torch.equal(model(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), model(tokens))
