"""What the published files of the GPTs hold beside weights, and what a file of one does to another."""

import pytest
import torch

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.weights import export_weights, load_weights


def published(name: str) -> dict[str, torch.Tensor]:
    """As the first files were: no prefix, the output stored too, and the buffers of the causal mask."""
    model = create_model(name)
    tensors = {
        key.removeprefix("transformer."): tensor for key, tensor in export_weights(model, "transformers").items()
    }
    tensors["lm_head.weight"] = model.embeddings.tokens.weight.detach().clone()
    inner = "attn.attention" if name.startswith("gpt_neo") else "attn"
    for i in range(2):
        tensors[f"h.{i}.{inner}.bias"] = torch.ones(1, 1, 128, 128).tril()
        tensors[f"h.{i}.{inner}.masked_bias"] = torch.tensor(-1e9)
    return tensors


@pytest.mark.parametrize("name", ["gpt_mini", "gpt_neo_mini"])
def test_old_files_load(name):
    tensors = published(name)
    model = create_model(name)
    report = load_weights(model, tensors)
    assert len(report.ignored) == 5
    again = {f"transformer.{key}": tensor for key, tensor in tensors.items()}
    for key, tensor in export_weights(model, "transformers").items():
        assert torch.equal(tensor, again[key]), key


def test_linear_layers_are_stored_in_by_out():
    tensors = export_weights(create_model("gpt_mini"), "transformers")
    assert tensors["transformer.h.0.attn.c_attn.weight"].shape == (64, 192)
    assert tensors["transformer.h.0.mlp.c_fc.weight"].shape == (64, 256)


@pytest.mark.parametrize(
    ("own", "other", "overrides"),
    [
        ("gpt_mini", "gpt_neo_mini", {}),
        ("gpt_neo_mini", "gpt_mini", {}),
        ("gpt_mini", "gpt_mini", {"norm": "post"}),
    ],
)
def test_a_file_of_a_sibling_is_told_apart(own, other, overrides):
    theirs = export_weights(create_model(other), "transformers")
    with pytest.raises(FieldguideError, match=f"does not fit {own}: .* it looks like {other} in transformers layout"):
        load_weights(create_model(own, **overrides), theirs)


@pytest.mark.parametrize("vocab_size", [250, 300])
def test_another_vocabulary_keeps_what_it_can(vocab_size):
    published = create_model("gpt_mini")
    model = create_model("gpt_mini", export_weights(published, "transformers"), vocab_size=vocab_size)
    one, other = model.embeddings.tokens.weight, published.embeddings.tokens.weight
    assert torch.equal(one[:250], other[:250])
    torch.testing.assert_close(one[256:], other.mean(0).expand(max(0, vocab_size - 256), -1))
