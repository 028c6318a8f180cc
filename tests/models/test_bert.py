"""BERT's own: its heads, segments and where its text ends. Parity is in ``tests/weights/test_text_parity.py``."""

import pytest
import torch
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.models.text.bert import BERT, BERTConfig


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    return torch.randint(4, 260, (2, 7))


@pytest.mark.parametrize(
    ("name", "changes", "count"),
    [
        ("bert_base", {"head": "pretrain"}, 110_106_428),
        ("bert_base", {"head": "masked_lm"}, 109_514_298),
        ("bert_base", {"vocab_size": 28_996}, 108_310_272),
        ("bert_base", {"vocab_size": 119_547}, 177_853_440),
        ("bert_large", {"head": "pretrain"}, 336_226_108),
        ("bert_large", {"head": "masked_lm"}, 335_174_458),
    ],
)
def test_published_counts_of_the_heads(name, changes, count):
    with torch.device("meta"):
        model = create_model(name, **changes)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_every_head_gives_what_it_says(tokens):
    assert create_model("bert_mini")(tokens).shape == (2, 7, 64)
    assert create_model("bert_mini", head="masked_lm")(tokens).shape == (2, 7, 260)
    assert create_model("bert_mini", head="classify", num_classes=5)(tokens).shape == (2, 5)
    words, order = create_model("bert_mini", head="pretrain")(tokens)
    assert (words.shape, order.shape) == ((2, 7, 260), (2, 2))
    with pytest.raises(FieldguideError, match="head of bert_mini must be"):
        create_model("bert_mini", head="translate")


@pytest.mark.parametrize("head", ["masked_lm", "pretrain", "classify"])
def test_gradients_reach_every_part_of_every_head(head, tokens):
    model = create_model("bert_mini", head=head).double()
    outputs = model(tokens)
    sum(out.square().sum() for out in (outputs if head == "pretrain" else [outputs])).backward()
    without = [name for name, parameter in model.named_parameters() if not parameter.grad.any()]
    assert not without


def test_the_vector_of_a_text_is_there_for_who_asks(tokens):
    model = create_model("bert_mini", pooler=True).eval()
    hidden = model(tokens)
    assert torch.equal(hidden, model.head(hidden, model.embeddings.tokens.weight))
    assert model.head.pooler(hidden).shape == (2, 64)


def test_the_vocabulary_is_stored_once():
    model = create_model("bert_mini", head="masked_lm")
    assert [name for name, tensor in model.state_dict().items() if tensor.shape == (260, 64)] == [
        "embeddings.tokens.weight"
    ]


def test_segments_matter_and_default_to_the_first(tokens):
    model = create_model("bert_mini").double().eval()
    first = torch.zeros_like(tokens)
    torch.testing.assert_close(model(tokens), model(tokens, segments=first), rtol=0, atol=1e-12)
    assert (model(tokens) - model(tokens, segments=first + 1)).abs().max() > 1e-3
    with pytest.raises(FieldguideError, match="segments run from 2 to 2, but the table has 2 rows"):
        model(tokens, segments=first + 2)


def test_padding_on_the_left_changes_nothing(tokens):
    model = create_model("bert_mini").double().eval()
    padded, keep = torch.cat((tokens[:, :3], tokens), 1), torch.arange(10).expand(2, -1) >= 3
    torch.testing.assert_close(model(padded, keep=keep)[:, 3:], model(tokens), rtol=0, atol=1e-12)


def test_a_text_longer_than_the_table_is_refused():
    with pytest.raises(FieldguideError, match=r"129 tokens but max_len=128; shorten .* or build .* max_len=129"):
        create_model("bert_mini")(torch.ones(1, 129, dtype=torch.long))
    assert create_model("bert_mini", max_len=129)(torch.ones(1, 129, dtype=torch.long)).shape == (1, 129, 64)


def test_starts_as_published():
    torch.manual_seed(0)
    model = BERT(BERTConfig(vocab_size=500, d_model=128, num_layers=1, num_heads=2, d_ff=512))
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and parameter.numel() > 10_000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
    assert {norm.eps for norm in model.modules() if isinstance(norm, nn.LayerNorm)} == {1e-12}
    assert {part.p for part in model.modules() if isinstance(part, nn.Dropout)} == {0.0, 0.1}
    assert model.encoder.layers[0].attention.dropout == 0.1
