"""Files of T5 and of Marian, old and new, and of their siblings; parity is in ``test_text_parity.py``."""

import pytest
import torch
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.models.text.t5 import SIZES
from fieldguide.weights import export_weights, load_weights
from fieldguide.weights.family import family_named
from fieldguide.weights.layouts import best_fit
from fieldguide.weights.loading import distinct_tensors


def random_model(name, **overrides):
    model = create_model(name, **overrides).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def assert_loads_as(old, model, name, **overrides):
    other = create_model(name, **overrides)
    load_weights(other, old)
    for (key, one), (_, another) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(one, another), key


def test_old_files_of_t5_repeat_the_table_and_hold_what_was_never_used():
    model = random_model("t5_mini")
    theirs = export_weights(model, "transformers")
    table = theirs["shared.weight"]
    old = theirs | {
        **dict.fromkeys(("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"), table),
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.randn(32, 4),
    }
    assert_loads_as(old, model, "t5_mini")
    with pytest.raises(FieldguideError, match=r"two tensors, lm_head.weight and shared.weight"):
        load_weights(model, old | {"lm_head.weight": table + 1})


@pytest.mark.parametrize("prefix", ["model.", ""], ids=["MarianMTModel", "MarianModel"])
def test_files_of_marian_repeat_the_table_and_hold_the_positions(prefix):
    model = random_model("transformer_mini")
    theirs = export_weights(model, "transformers")
    old = theirs | {f"model.{side}.embed_positions.weight": torch.randn(9, 48) for side in ("encoder", "decoder")}
    names = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
    old |= dict.fromkeys(names, theirs["model.shared.weight"])
    old = {prefix + name.removeprefix("model.") if "lm_head" not in name else name: x for name, x in old.items()}
    assert_loads_as(old, model, "transformer_mini")


def test_a_network_trained_here_runs_in_marian_although_it_orders_positions_otherwise():
    transformers = pytest.importorskip("transformers")
    ours = random_model("transformer_mini", output_bias=True)
    sides = {
        f"{side}_{part}": number
        for side in ("encoder", "decoder")
        for part, number in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 192))
    }
    config = transformers.MarianConfig(
        vocab_size=260, d_model=48, activation_function="relu", scale_embedding=True, pad_token_id=0, **sides
    )
    theirs = transformers.MarianMTModel(config).eval()
    missing, surplus = theirs.load_state_dict(export_weights(ours, "transformers"), strict=False)
    theirs.tie_weights()
    assert not surplus
    assert all("embed_" in name or name == "lm_head.weight" for name in missing)
    source, target = torch.randint(4, 260, (2, 11)), torch.randint(4, 260, (2, 7))
    expected = theirs(source, decoder_input_ids=target).logits
    assert (ours(source, target) - expected).norm() / expected.norm() < 1e-5
    assert (ours(source, target) - ours(source.flip(1), target)).norm() / expected.norm() > 0.01, "order matters"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (not name.endswith("small")))
        for name in SIZES
        if name != "t5_mini"
    ],
)
def test_every_published_t5_has_the_names_and_shapes_of_its_library(name):
    transformers = pytest.importorskip("transformers")
    c = SIZES[name]
    config = transformers.T5Config(
        vocab_size=c.vocab_size,
        d_model=c.d_model,
        d_kv=c.head_dim,
        num_heads=c.num_heads,
        num_layers=c.num_layers,
        d_ff=c.d_ff,
        feed_forward_proj={"relu": "relu", "geglu": "gated-gelu"}[c.feedforward],
    )
    with torch.device("meta"):
        theirs = transformers.T5ForConditionalGeneration(config).state_dict()
        ours = create_model(name)
    fit = best_fit(theirs, distinct_tensors(ours), family_named("t5"), None)
    assert (fit.layout, fit.distance) == ("transformers", (0, 0))


@pytest.mark.parametrize(("name", "given"), [("t5_small", "t5_v1_1_small"), ("t5_small", "transformer_base")])
def test_a_sibling_is_told_apart(name, given):
    with torch.device("meta"):
        model, other = create_model(name), create_model(given)
    with pytest.raises(FieldguideError, match=f"it looks like {given} in transformers layout"):
        load_weights(model, export_weights(other, "transformers"))
