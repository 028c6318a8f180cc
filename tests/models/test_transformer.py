"""The Transformer of 2017 against PyTorch's own layers and the paper's equations, in float64."""

import math

import pytest
import torch
from torch import nn

from fieldguide.blocks.cache import DynamicCache, StaticCache
from fieldguide.models import create_model
from fieldguide.models.text.transformer import Transformer, TransformerConfig
from fieldguide.weights.rows import split
from fieldguide.weights.table import Table

D, HEADS, D_FF, VOCAB, LENGTH = 24, 4, 40, 31, 9
CONFIG = TransformerConfig(vocab_size=VOCAB, d_model=D, num_layers=2, num_heads=HEADS, d_ff=D_FF)


def attention(theirs: str, ours: str) -> dict:
    return {
        f"{theirs}.in_proj_weight": split(f"{ours}.{{part}}.weight", "query", "key", "value"),
        f"{theirs}.in_proj_bias": split(f"{ours}.{{part}}.bias", "query", "key", "value"),
        f"{theirs}.out_proj.*": f"{ours}.output.*",
    }


PYTORCH = Table(
    {
        f"{stack}.layers.{{i}}.{theirs}": f"{stack}.layers.{{i}}.{ours}"
        for stack, norms in (
            ("encoder", ("attention", "feedforward")),
            ("decoder", ("attention", "cross_attention", "feedforward")),
        )
        for theirs, ours in {
            "linear1.*": "feedforward.expand.*",
            "linear2.*": "feedforward.contract.*",
            **{f"norm{i}.*": f"{norm}_norm.*" for i, norm in enumerate(norms, 1)},
        }.items()
    }
    | attention("encoder.layers.{i}.self_attn", "encoder.layers.{i}.attention")
    | attention("decoder.layers.{i}.self_attn", "decoder.layers.{i}.attention")
    | attention("decoder.layers.{i}.multihead_attn", "decoder.layers.{i}.cross_attention")
)


def texts(rows=2, n=LENGTH, vocab=VOCAB):
    return torch.randint(4, vocab, (rows, n))


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def paper_positions(n: int, d_model: int) -> torch.Tensor:
    """§3.5, entry by entry."""
    table = torch.zeros(n, d_model, dtype=torch.float64)
    for position in range(n):
        for i in range(d_model // 2):
            angle = position / 10_000 ** (2 * i / d_model)
            table[position, 2 * i], table[position, 2 * i + 1] = math.sin(angle), math.cos(angle)
    return table


def test_equals_pytorchs_layers_between_the_papers_embeddings():
    layers = nn.Transformer(D, HEADS, 2, 2, D_FF, dropout=0.0, batch_first=True).double()
    layers.encoder.norm = layers.decoder.norm = None  # PyTorch adds norms that the paper does not have
    for parameter in layers.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    state, plan = layers.state_dict(), PYTORCH.plan(layers.state_dict())
    assert not plan.surplus
    ours = Transformer(CONFIG).double().eval()
    words = ours.embeddings.tokens.weight
    moved = {name: tensor for move in plan.moves for name, tensor in move(state).items()}
    ours.load_state_dict({"embeddings.tokens.weight": words} | moved)

    source, target = texts(), texts(n=6)
    source_keep, target_keep = torch.arange(9) < torch.tensor([[9], [5]]), torch.arange(6) < torch.tensor([[6], [4]])
    embedded = (math.sqrt(D) * words[text] + paper_positions(text.shape[1], D) for text in (source, target))
    expected = layers(
        *embedded,
        tgt_mask=torch.ones(6, 6, dtype=torch.bool).triu(1),
        src_key_padding_mask=~source_keep,
        memory_key_padding_mask=~source_keep,
        tgt_key_padding_mask=~target_keep,
    )
    actual = ours(source, target, source_keep, target_keep)
    assert_same(actual[target_keep], (expected @ words.T)[target_keep])
    assert (actual - ours(source, target)).abs().max() > 1e-3, "padding matters"


def test_one_table_embeds_and_predicts():
    model = Transformer(CONFIG).double().eval()
    assert [name for name, x in model.state_dict().items() if VOCAB in x.shape] == ["embeddings.tokens.weight"]
    source, target = texts(), texts()
    logits = model(source, target)
    with torch.no_grad():
        model.embeddings.tokens.weight[2] = 1.0  # a token of neither text
    changed = (logits != model(source, target)).flatten(0, 1).any(0)
    assert changed.tolist() == [token == 2 for token in range(VOCAB)]


def test_an_output_bias_is_added_to_the_logits():
    model = create_model("transformer_mini", output_bias=True).double().eval()
    source, target = texts(vocab=260), texts(vocab=260)
    plain = model(source, target)
    nn.init.normal_(model.output_bias)
    assert_same(model(source, target), plain + model.output_bias)


def test_a_shift_of_positions_is_one_linear_map():
    """§3.5: for any fixed k, PE(pos + k) is a linear function of PE(pos), here rotations of pairs of features."""
    positions = Transformer(CONFIG).double().embeddings.positions
    table, k = positions(torch.arange(40)), 7
    angles = k / 10_000 ** (torch.arange(0, D, 2, dtype=torch.float64) / D)
    sin, cos = table[:, 0::2], table[:, 1::2]
    turned = torch.stack((sin * angles.cos() + cos * angles.sin(), cos * angles.cos() - sin * angles.sin()), -1)
    assert_same(turned.flatten(1)[: 40 - k], table[k:])


def test_each_sublayer_ends_in_a_norm_and_the_stacks_do_not_add_one():
    model = Transformer(CONFIG).double().eval()
    memory = model.encode(texts())
    assert_same(memory.mean(-1), torch.zeros(2, LENGTH, dtype=torch.float64))
    last = model.encoder.layers[-1].feedforward_norm
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, 3.0)
    assert (model.encode(texts()) == 3).all(), "a norm after it would centre this"


@pytest.mark.parametrize("steps", [(4, 1, 1, 1, 1, 1), (5, 3, 1)])
@pytest.mark.parametrize("cache", [DynamicCache, lambda: StaticCache(LENGTH)], ids=["dynamic", "static"])
def test_decoding_with_a_cache_equals_decoding_at_once(steps, cache):
    model, source, target, kept = Transformer(CONFIG).double().eval(), texts(n=7), texts(), cache()
    source_keep = torch.arange(7) < torch.tensor([[7], [4]])
    target_keep = torch.arange(LENGTH) >= torch.tensor([[0], [3]])  # prompts of unequal length begin at the same time
    with torch.no_grad():
        memory, ends = model.encode(source, source_keep), torch.tensor(steps).cumsum(0).tolist()
        parts = [
            model.decode(part, memory, source_keep, target_keep[:, :end], cache=kept)
            for part, end in zip(target.split(steps, 1), ends, strict=True)
        ]
        whole = model(source, target, source_keep, target_keep)
        assert_same(torch.cat(parts, 1)[target_keep], whole[target_keep])
        assert_same(whole[1:, 3:], model(source[1:, :4], target[1:, 3:]))


@torch.no_grad()
def test_what_training_begins_with():
    """Embeddings and positions of the same size, and logits of unit size: the table has variance 1 / d_model."""
    model = create_model("transformer_base", num_layers=1).eval()
    words, places = model.embeddings.tokens(texts(n=400, vocab=37000)), model.embeddings.positions(torch.arange(400))
    assert words.std() == pytest.approx(1, rel=0.1)
    assert places.pow(2).mean() == pytest.approx(0.5, rel=0.01)
    assert model(texts(), texts()).std() == pytest.approx(1, rel=0.1)
