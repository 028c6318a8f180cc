"""Embeddings against BERT's own and the Transformer's equations."""

import pytest
import torch
from torch import nn

from fieldguide.blocks.embeddings import Embeddings, ScaledEmbedding, require_tokens
from fieldguide.blocks.positions import Learned, Sinusoidal
from fieldguide.errors import FieldguideError


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    return torch.randint(0, 30, (2, 7))


def test_equals_berts_embeddings(tokens):
    transformers = pytest.importorskip("transformers")
    modeling = pytest.importorskip("transformers.models.bert.modeling_bert")
    config = transformers.BertConfig(vocab_size=30, hidden_size=12, max_position_embeddings=16, type_vocab_size=2)
    theirs = modeling.BertEmbeddings(config).double().eval()
    nn.init.normal_(theirs.word_embeddings.weight)  # so that the norm's epsilon does not swallow the signal
    ours = Embeddings(
        nn.Embedding(30, 12),
        Learned(16, 12),
        segments=nn.Embedding(2, 12),
        norm=nn.LayerNorm(12, eps=1e-12),
        dropout=0.1,
    )
    names = {
        "tokens.weight": "word_embeddings.weight",
        "positions.weight": "position_embeddings.weight",
        "segments.weight": "token_type_embeddings.weight",
        "norm.weight": "LayerNorm.weight",
        "norm.bias": "LayerNorm.bias",
    }
    state = theirs.state_dict()
    ours.double().load_state_dict({name: state[other] for name, other in names.items()})
    ours.eval()
    segments = (torch.arange(7) > 3).long().expand(2, -1)
    torch.testing.assert_close(ours(tokens), theirs(tokens), rtol=0, atol=1e-12)
    expected = theirs(tokens, token_type_ids=segments)
    torch.testing.assert_close(ours(tokens, segments=segments), expected, rtol=0, atol=1e-12)
    assert (ours(tokens) - expected).abs().max() > 1e-3, "segments matter"


def test_dropout_and_norm_come_after_the_sum(tokens):
    embeddings = Embeddings(nn.Embedding(30, 64), Learned(16, 64), norm=nn.LayerNorm(64), dropout=0.5)
    dropped = (embeddings(tokens) == 0).float().mean()
    assert 0.4 < dropped < 0.6
    torch.testing.assert_close(embeddings.eval()(tokens).std(-1, unbiased=False), torch.ones(2, 7), rtol=0, atol=1e-3)


def test_the_transformer_scales_tokens_and_nothing_else(tokens):
    scaled, positions = ScaledEmbedding(30, 16), Sinusoidal(16)
    expected = 4 * scaled.weight[tokens] + positions(torch.arange(7))
    torch.testing.assert_close(Embeddings(scaled, positions)(tokens), expected)


def test_scaled_embeddings_have_unit_variance():
    torch.manual_seed(0)
    assert ScaledEmbedding(1000, 256)(torch.arange(1000)).std().item() == pytest.approx(1, abs=0.01)


def test_padding_on_the_left_moves_no_position(tokens):
    embeddings = Embeddings(nn.Embedding(30, 8), Learned(16, 8))
    padded = torch.cat((torch.zeros(2, 3, dtype=torch.long), tokens), 1)
    keep = torch.arange(10).expand(2, -1) >= 3
    assert torch.equal(embeddings(padded, keep=keep)[:, 3:], embeddings(tokens))


def test_segments_without_a_table_are_refused(tokens):
    with pytest.raises(FieldguideError, match="no segment table"):
        Embeddings(nn.Embedding(30, 8), Learned(16, 8))(tokens, segments=torch.zeros_like(tokens))


@pytest.mark.parametrize("segment", [-1, 2])
def test_a_segment_outside_the_table_is_named(tokens, segment):
    embeddings = Embeddings(nn.Embedding(30, 8), Learned(16, 8), segments=nn.Embedding(2, 8))
    with pytest.raises(FieldguideError, match=rf"segments run from {segment} to {segment}, but the table has 2 rows"):
        embeddings(tokens, segments=torch.full_like(tokens, segment))


def test_segments_of_another_text_are_refused(tokens):
    embeddings = Embeddings(nn.Embedding(30, 8), Learned(16, 8), segments=nn.Embedding(2, 8))
    with pytest.raises(FieldguideError, match=r"segments \(2, 6\) do not fit tokens \(2, 7\)"):
        embeddings(tokens, segments=torch.zeros(2, 6, dtype=torch.long))


def test_positions_that_are_given_are_not_counted(tokens):
    embeddings = Embeddings(nn.Embedding(30, 8), Learned(16, 8))
    positions = torch.arange(7).flip(0).expand(2, -1)
    expected = embeddings.tokens.weight[tokens] + embeddings.positions.weight[positions]
    torch.testing.assert_close(embeddings(tokens, positions=positions), expected)


@pytest.mark.parametrize(
    ("tokens", "keep", "said"),
    [
        (torch.zeros(2, 0, dtype=torch.long), None, r"takes tokens .* got \(2, 0\) of int64"),
        (torch.zeros(2, 3), None, r"whole numbers, .* got \(2, 3\) of float32"),
        (torch.tensor([[1, 2], [3, 9]]), None, r"Net: token 9 at place 1 of row 1 is outside vocab_size=9"),
        (torch.tensor([[1, -1]]), None, r"token -1 at place 1 of row 0"),
        (
            torch.ones(2, 2, dtype=torch.long),
            torch.tensor([[True, False], [False, False]]),
            r"row 1 of keep has no real",
        ),
        (
            torch.ones(2, 3, dtype=torch.long),
            torch.ones(2, 2, dtype=torch.bool),
            r"keep \(2, 2\) of bool does not mark .*\(2, 3\)",
        ),
        (
            torch.ones(2, 3, dtype=torch.long),
            torch.ones(1, 3, dtype=torch.bool),
            r"keep \(1, 3\) of bool does not mark .*\(2, 3\)",
        ),
        (torch.ones(2, 3, dtype=torch.long), torch.ones(2, 3), r"keep \(2, 3\) of float32 .*it is Boolean"),
    ],
)
def test_tokens_that_cannot_be_are_named(tokens, keep, said):
    with pytest.raises(FieldguideError, match=said):
        require_tokens(tokens, vocab_size=9, model="Net", keep=keep)


def test_tokens_that_can_be_pass():
    tokens = torch.tensor([[0, 8]])
    assert require_tokens(tokens, vocab_size=9, model="Net", keep=torch.tensor([[False, True]])) is tokens
    assert require_tokens(tokens.to("meta"), vocab_size=1, model="Net").device.type == "meta"
