"""GPT-Neo: layers that look back a window and all the way in turn, with scores that nothing scales."""

import pytest
import torch
from torch import nn

from fieldguide.blocks.cache import DynamicCache
from fieldguide.errors import FieldguideError
from fieldguide.models.text.gpt_neo import GPTNeo, GPTNeoConfig

SMALL = GPTNeoConfig(vocab_size=50, max_len=24, d_model=32, num_layers=4, num_heads=4, window=4)


def reach(layer: nn.Module, token: int) -> list[int]:
    """The places whose input changes what comes out for one token."""
    x = torch.randn(1, 16, 32, dtype=torch.float64, requires_grad=True)
    layer(x)[0, token].sum().backward()
    return x.grad[0].any(-1).nonzero().flatten().tolist()


def test_the_window_includes_the_token_itself():
    layers = GPTNeo(SMALL).double().eval().decoder.layers
    assert [reach(layer, 10) for layer in layers] == [list(range(11)), [7, 8, 9, 10]] * 2


def test_scores_are_not_scaled_and_only_the_output_has_a_bias():
    attention = GPTNeo(SMALL).double().eval().decoder.layers[0].attention
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(1, 6, 32, dtype=torch.float64)
    q, k, v = (
        (x @ projection.weight.T).unflatten(-1, (4, 8)).transpose(1, 2)
        for projection in (attention.query, attention.key, attention.value)
    )
    future = torch.ones(6, 6).triu(1).bool()
    weights = (q @ k.mT).masked_fill(future, float("-inf")).softmax(-1)
    expected = (weights @ v).transpose(1, 2).flatten(2) @ attention.output.weight.T + attention.output.bias
    torch.testing.assert_close(attention(x), expected, rtol=0, atol=1e-10)
    assert [name for name, _ in attention.named_parameters() if "bias" in name] == ["output.bias"]


def test_starts_with_a_deviation_of_two_hundredths():
    model = GPTNeo(GPTNeoConfig(vocab_size=500, max_len=64, d_model=256, num_layers=2, num_heads=4))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float("norm.weight" in name))), name


def test_a_text_longer_than_the_table_of_positions_is_refused():
    model, cache = GPTNeo(SMALL).eval(), DynamicCache()
    with torch.no_grad():
        model(torch.zeros(1, 24).long(), cache=cache)
        with pytest.raises(FieldguideError, match="25 tokens but max_len=24"):
            model(torch.zeros(1, 1).long(), cache=cache)
