"""A file of one network for another: never read as if it were the right one, and told by its name."""

import pytest
import torch

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.weights import export_weights, load_weights

MINIS = [
    ("roberta", "bert"),
    ("bert", "roberta"),
    ("bert", "distilbert"),
    ("distilbert", "bert"),
    ("roberta", "distilbert"),
    ("gpt", "gpt_neo"),
    ("gpt_neo", "gpt"),
    ("gpt", "bert"),
    ("bert", "gpt"),
    ("t5", "transformer"),
    ("transformer", "t5"),
    ("bert", "performer"),
    ("roberta", "linformer"),
    ("vit", "swin"),
    ("swin", "vit"),
    ("vit", "resnet"),
    ("vit", "bert"),
    ("bert", "vit"),
]
PUBLISHED = [("t5_small", "t5_v1_1_small"), ("t5_v1_1_small", "t5_small"), ("gpt1", "gpt2"), ("vit_b_16", "vit_b_32")]
"""Of one family: only the number of parameters tells which one a file is."""


def assert_refused_by_name(file: str, into: str, *, strict: bool = True) -> None:
    theirs = export_weights(create_model(file), "transformers")
    with pytest.raises(FieldguideError, match=rf"does not fit {into}: .*looks like {file} in transformers") as caught:
        load_weights(create_model(into), theirs, strict=strict)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(f"layout; create {file} for it")


@pytest.mark.parametrize(("file", "into"), MINIS)
def test_a_siblings_file_is_refused_by_name(file, into):
    assert_refused_by_name(f"{file}_mini", f"{into}_mini")


@pytest.mark.parametrize(("file", "into"), MINIS[:4])
def test_fine_tuning_does_not_make_it_fit(file, into):
    assert_refused_by_name(f"{file}_mini", f"{into}_mini", strict=False)


@pytest.mark.parametrize(("file", "into"), PUBLISHED)
def test_a_published_size_is_known_by_its_parameters(file, into):
    with torch.device("meta"):
        assert_refused_by_name(file, into)


@pytest.mark.parametrize(("file", "into"), [("roberta_mini", "bert_mini"), ("bert_mini", "roberta_mini")])
def test_not_even_when_everything_that_can_be_is_made_to_fit(file, into):
    """BERT and RoBERTa alone have the same names; the table of segments tells them apart."""
    theirs = export_weights(create_model(file), "transformers")
    with pytest.raises(FieldguideError, match=f"1 more of another shape.*looks like {file}"):
        create_model(into, theirs, vocab_size=300, max_len=200)
