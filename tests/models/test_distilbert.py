"""DistilBERT's own: what it lacks. Parity is in ``tests/weights/test_text_parity.py``."""

import pytest
import torch
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    return torch.randint(4, 260, (2, 7))


@pytest.mark.parametrize(
    ("changes", "count"),
    [({"head": "masked_lm"}, 66_985_530), ({"head": "classify", "num_classes": 2}, 66_955_010)],
)
def test_published_counts_of_the_heads(changes, count):
    with torch.device("meta"):
        model = create_model("distilbert_base", **changes)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_every_head_gives_what_it_says(tokens):
    assert create_model("distilbert_mini", head="masked_lm")(tokens).shape == (2, 7, 260)
    assert create_model("distilbert_mini", head="classify", num_classes=5)(tokens).shape == (2, 5)


def test_there_are_no_segments(tokens):
    with pytest.raises(FieldguideError, match="does not tell segments apart; leave them out"):
        create_model("distilbert_mini")(tokens, segments=torch.zeros_like(tokens))


def test_a_text_longer_than_the_table_is_refused():
    with pytest.raises(FieldguideError, match="129 tokens but max_len=128"):
        create_model("distilbert_mini")(torch.ones(1, 129, dtype=torch.long))


def test_norms_are_berts():
    model = create_model("distilbert_mini", head="masked_lm")
    assert {norm.eps for norm in model.modules() if isinstance(norm, nn.LayerNorm)} == {1e-12}
