"""T5: what its papers and its authors' code say of it, beside parity (``weights/test_text_parity.py``)."""

import pytest
import torch

from fieldguide.blocks.attention import Attention
from fieldguide.blocks.biases import RelativeBuckets
from fieldguide.blocks.cache import DynamicCache, StaticCache
from fieldguide.models import create_model
from fieldguide.models.text.t5 import SIZES, T5

LENGTH = 9


@pytest.fixture
def model():
    return create_model("t5_mini").double().eval()


def texts(rows=2, n=LENGTH):
    return torch.randint(4, 260, (rows, n))


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_each_stack_has_one_table_of_distances(model):
    tables = {name: module for name, module in model.named_modules() if isinstance(module, RelativeBuckets)}
    assert {name: bias.two_sided for name, bias in tables.items()} == {"encoder.bias": True, "decoder.bias": False}
    assert [name for name in model.state_dict() if "table" in name] == [f"{name}.table.weight" for name in tables]


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
@pytest.mark.parametrize("layer", [0, 1])
def test_every_layer_adds_the_shared_bias_and_no_scale(model, stack, layer):
    """Attention of one layer by its formula: softmax(q kᵀ + bias) v."""
    stack = getattr(model, stack)
    attention = stack.layers[layer].attention
    x = torch.randn(2, LENGTH, 64, dtype=torch.float64)
    q, k, v = (getattr(attention, name)(x).unflatten(-1, (4, 8)).transpose(1, 2) for name in ("query", "key", "value"))
    distance = torch.arange(LENGTH) - torch.arange(LENGTH)[:, None]
    scores = q @ k.mT + stack.bias.table(stack.bias.bucket(distance)).permute(2, 0, 1)
    seen = distance <= 0 if not stack.bias.two_sided else torch.ones_like(distance, dtype=torch.bool)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    assert_same(attention(x, bias=stack.bias), attention.output((weights @ v).transpose(1, 2).flatten(2)))


def test_only_distances_count(model):
    """Tokens moved to the right, past padding, are read and written as before."""
    source, target, gap = texts(), texts(n=6), texts(n=5)
    keeps = (torch.arange(side.shape[1] + 5).expand(2, -1) >= 5 for side in (source, target))
    moved = model(torch.cat((gap, source), 1), torch.cat((gap, target), 1), *keeps)
    assert_same(moved[:, 5:], model(source, target))


def test_beyond_the_last_bucket_distances_are_alike(model):
    """A key at distance 128 and one at 160 get the same score, so that texts may be longer than any in training."""
    bias = model.decoder.bias(1, 200)[0, :, 0]
    assert (bias[:, :72] == bias[:, :1]).all()
    assert (bias[:, 199] != bias[:, 0]).all()


@pytest.mark.parametrize("steps", [(1,) * LENGTH, (4, 1, 3, 1)])
@pytest.mark.parametrize("cache", [DynamicCache, lambda: StaticCache(LENGTH)], ids=["dynamic", "static"])
def test_decoding_with_a_cache_equals_decoding_at_once(model, steps, cache):
    source, target, kept = texts(n=7), texts(), cache()
    keep = torch.arange(7) < torch.tensor([[7], [4]])
    with torch.no_grad():
        memory = model.encode(source, keep)
        parts = [model.decode(part, memory, keep, cache=kept) for part in target.split(steps, 1)]
        assert_same(torch.cat(parts, 1), model(source, target, keep))


def test_beams_go_on_from_what_their_row_has_seen(model):
    source, target, kept, order = texts(), texts(), DynamicCache(), torch.tensor([1, 1, 0])
    memory = model.encode(source)
    model.decode(target[:, :4], memory, cache=kept)
    kept.reorder(order)
    together = model.decode(target[order, 4:], memory[order], cache=kept)
    assert_same(together, model(source, target)[order, 4:])


def test_logits_of_the_tied_table_are_scaled_and_those_of_a_head_are_not():
    x = torch.randn(2, 3, 64)
    tied, untied = create_model("t5_mini"), create_model("t5_mini", tied=False)
    torch.testing.assert_close(tied.output(x), x @ tied.tokens.weight.T / 8)
    torch.testing.assert_close(untied.output(x), x @ untied.head.weight.T)


@torch.no_grad()
@pytest.mark.parametrize("name", ["t5_small", "t5_v1_1_small"])
def test_what_training_begins_with_keeps_the_size_of_what_passes(name):
    """Scores have no scale, so queries begin small enough for scores of unit deviation; logits are of unit size too."""
    config = SIZES[name]
    model = create_model(name, num_layers=1, vocab_size=2000).eval()
    x = torch.randn(1, 400, config.d_model)
    attention = model.encoder.layers[0].attention
    q, k = (getattr(attention, part)(x).unflatten(-1, (-1, 64)).transpose(1, 2) for part in ("query", "key"))
    assert (q @ k.mT).std() == pytest.approx(1, rel=0.1)
    assert model.output(x).std() == pytest.approx(1, rel=0.1)
    assert model.encoder.bias.table.weight.std() == pytest.approx(config.d_model**-0.5, rel=0.2)


def test_heads_are_as_wide_as_the_paper_says():
    """Not d_model / num_heads: the 11B network has heads sixteen times as wide in all as the model."""
    with torch.device("meta"):
        model = T5(SIZES["t5_11b"])
    attention = next(module for module in model.modules() if isinstance(module, Attention))
    assert attention.query.weight.shape == (16384, 1024)
    assert not [name for name, _ in model.named_parameters() if name.endswith(".bias")]
