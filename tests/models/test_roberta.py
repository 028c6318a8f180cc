"""RoBERTa's own: positions behind the row of padding. Parity is in ``tests/weights/test_text_parity.py``."""

import pytest
import torch
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model

PAD = 1


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("roberta_mini").double().eval()


def rows_of(model, tokens, keep=None):
    """The rows of the position table that a text is given."""
    seen = []
    handle = model.embeddings.positions.register_forward_hook(lambda module, inputs, out: seen.append(out))
    model(tokens, keep=keep)
    handle.remove()
    same = (seen[0].unsqueeze(-2) == model.embeddings.positions.weight).all(-1)
    return same.int().argmax(-1).tolist()


def test_positions_stand_behind_the_row_of_padding(model):
    tokens = torch.tensor([[5, 6, PAD, PAD]])
    assert rows_of(model, tokens) == [[2, 3, 1, 1]]
    assert rows_of(model, tokens, tokens != PAD) == [[2, 3, 1, 1]]
    assert rows_of(model, torch.tensor([[PAD, PAD, 5, 6]])) == [[1, 1, 2, 3]]
    assert rows_of(model, torch.tensor([[7, 8, 5, 6]]), torch.tensor([[False, False, True, True]])) == [[1, 1, 2, 3]]


def test_padding_on_the_left_changes_nothing(model):
    tokens = torch.randint(4, 260, (2, 6))
    padded = torch.cat((torch.full((2, 4), PAD), tokens), 1)
    torch.testing.assert_close(model(padded, keep=padded != PAD)[:, 4:], model(tokens), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "changes", "count"),
    [
        ("roberta_base", {"head": "masked_lm"}, 124_697_433),
        ("roberta_large", {"head": "masked_lm"}, 355_412_057),
        ("roberta_base", {"head": "classify", "num_classes": 2}, 124_647_170),
    ],
)
def test_published_counts_of_the_heads(name, changes, count):
    with torch.device("meta"):
        model = create_model(name, **changes)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_every_head_gives_what_it_says():
    tokens = torch.randint(4, 260, (2, 7))
    assert create_model("roberta_mini", head="masked_lm")(tokens).shape == (2, 7, 260)
    assert create_model("roberta_mini", head="classify", num_classes=5)(tokens).shape == (2, 5)
    pooled = create_model("roberta_mini", pooler=True)
    assert pooled.head.pooler(pooled(tokens)).shape == (2, 64)


def test_only_one_segment_exists(model):
    tokens = torch.randint(4, 260, (2, 7))
    torch.testing.assert_close(model(tokens, segments=torch.zeros_like(tokens)), model(tokens), rtol=0, atol=1e-12)
    with pytest.raises(FieldguideError, match="segments run from 1 to 1, but the table has 1 row"):
        model(tokens, segments=torch.ones_like(tokens))


def test_the_longest_text_is_two_rows_shorter_than_the_table(model):
    assert model.embeddings.positions.weight.shape == (130, 64)
    assert rows_of(model, torch.full((1, 128), 5))[0][-1] == 129
    with pytest.raises(FieldguideError, match="129 tokens but max_len=128"):
        model(torch.full((1, 129), 5))


def test_norms_are_pytorchs_own(model):
    assert {norm.eps for norm in model.modules() if isinstance(norm, nn.LayerNorm)} == {1e-5}
