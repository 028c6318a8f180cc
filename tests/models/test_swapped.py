"""Networks of the catalog with another core or mask: made, filled, saved, and loaded again bit for bit."""

import json
from dataclasses import dataclass

import pytest
import torch

from fieldguide import catalog
from fieldguide.blocks.attention import Attention
from fieldguide.blocks.cores import Linear, Linformer, Performer, Projection, Softmax
from fieldguide.blocks.masks import Causal, Dilated, Full, Global, Mask, Prefix, Strided, Window
from fieldguide.blocks.swapping import swap_attention
from fieldguide.errors import DamagedFile, FieldguideError
from fieldguide.models import create_model, load_model, read_config, save_model
from fieldguide.weights import export_weights

TOKENS = torch.arange(24).view(2, 12) + 5
SPARSE = Window(3) | Global([0])
MAKES = [
    ("bert_mini", {"core": Performer(features=16)}),
    ("bert_mini", {"mask": SPARSE}),
    ("bert_mini", {"core": Performer(), "mask": Causal()}),
    ("roberta_mini", {"core": Linformer(Projection(128, 8), Projection(128, 8))}),
    ("distilbert_mini", {"core": Linformer(Projection(128, 8)), "mask": Full()}),
    ("linformer_mini", {"core": Softmax(), "mask": Strided(3) | ~Prefix(2)}),
    ("performer_mini", {"core": Performer(features=8)}),
    ("gpt_mini", {"mask": Causal() & (Window(4) | Global([0]))}),
    ("gpt_mini", {"core": Linear()}),
    ("gpt_neo_mini", {"core": Performer(features=16), "mask": Causal()}),
    ("vit_mini", {"core": Performer(features=16)}),
]


def attentions(model) -> dict[str, Attention]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Attention)}


def inputs(model) -> torch.Tensor:
    return torch.randn(2, 1, 32, 32) if model.name == "vit_mini" else TOKENS


@pytest.mark.parametrize(("name", "changes"), MAKES, ids=lambda value: value if isinstance(value, str) else "")
def test_it_is_saved_and_loaded_bit_for_bit(name, changes, tmp_path):
    model = create_model(name, **changes).eval()
    x = inputs(model)
    expected = model(x)
    state, random = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    save_model(model, tmp_path / "model")
    assert torch.equal(torch.get_rng_state(), random), "saving disturbs no training"
    loaded = load_model(tmp_path / "model")
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[n]) for n, tensor in loaded.state_dict().items())
    assert torch.equal(loaded(x), expected)
    for one, other in zip(attentions(loaded).values(), attentions(model).values(), strict=True):
        assert (repr(one.core), one.mask, one.dropout) == (repr(other.core), other.mask, other.dropout)
    save_model(loaded, tmp_path / "again")
    files = [(tmp_path / folder / "config.json").read_text() for folder in ("model", "again")]
    assert files[0] == files[1]


def test_the_file_says_it_in_words(tmp_path):
    save_model(create_model("bert_mini", core=Performer(16), mask=Causal()), tmp_path / "a")
    everywhere = {"where": "*", "core": "Performer(features=16)", "mask": "Causal()", "dropout": 0.0}
    assert json.loads((tmp_path / "a" / "config.json").read_text())["swaps"] == [everywhere]
    model = create_model("bert_mini", mask=SPARSE)
    swap_attention(model, mask=Dilated(3), where="encoder.layers.1")
    save_model(model, tmp_path / "b")
    kept = {"core": "Softmax()", "dropout": 0.1}
    assert read_config(tmp_path / "b").swaps == [
        {"where": "encoder.layers.0.attention", "mask": "Window(3) | Global([0])", **kept},
        {"where": "encoder.layers.1.attention", "mask": "Dilated(3)", **kept},
    ]
    save_model(create_model("bert_mini"), tmp_path / "c")
    assert read_config(tmp_path / "c").swaps == []


def test_a_published_file_fills_what_can_be_kept():
    published = create_model("bert_mini")
    model = create_model("bert_mini", export_weights(published, "transformers"), core=Performer(features=16))
    theirs, ours = published.state_dict(), model.state_dict()
    assert set(model.swap.new) == ours.keys() - theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert model.swap.undropped == model.swap.changed, "its weights were dropped with a probability of 0.1"
    assert model.config == published.config
    assert set(model.loaded.loaded) == theirs.keys()


def test_many_features_come_near_to_softmax():
    published = create_model("bert_mini").eval()
    model = create_model("bert_mini", export_weights(published, "transformers"), core=Performer(4096)).eval()
    assert 0 < (model(TOKENS) - published(TOKENS)).norm() / published(TOKENS).norm() < 0.02


def test_a_mask_hides_what_it_says():
    model = create_model("bert_mini", mask=Window(2)).eval()
    other = TOKENS.clone()
    other[:, 6:] = 3
    before, after = model(TOKENS), model(other)  # two layers of a window that reaches one token
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=1e-6)
    assert (before[:, 4] - after[:, 4]).abs().max() > 1e-4


def test_a_saved_swap_is_changed_again(tmp_path):
    first = create_model("bert_mini", core=Performer(16), mask=Causal())
    save_model(first, tmp_path / "model")
    same = create_model("bert_mini", tmp_path / "model")
    assert same.training
    assert all(torch.equal(a, b) for a, b in zip(same.state_dict().values(), first.state_dict().values(), strict=True))
    back = create_model("bert_mini", tmp_path / "model", core=Softmax())
    assert len(back.swap.gone) == 2
    assert {attention.mask for attention in attentions(back).values()} == {Causal()}
    wider = create_model("bert_mini", tmp_path / "model", vocab_size=300, core=Linear())
    assert torch.equal(wider.embeddings.tokens.weight[:260], first.embeddings.tokens.weight)
    assert {repr(attention.core) for attention in attentions(wider).values()} == {"Linear()"}


TEXT = [row for row in catalog.ARCHITECTURES if row.task in ("encode", "generate", "translate")]
REFUSALS = {"t5": "cannot honour bias=RelativeBuckets", "gpt_neo": r"cannot honour mask=Window\(16\)"}


@pytest.mark.parametrize("row", TEXT, ids=lambda row: row.family)
def test_every_network_for_text_takes_a_core_or_says_why_not(row):
    if row.family in REFUSALS:
        with pytest.raises(FieldguideError, match=REFUSALS[row.family]):
            create_model(f"{row.family}_mini", core=Linear())
    else:
        model = create_model(f"{row.family}_mini", core=Linear())
        assert len(model.swap.changed) == len(attentions(model))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("resnet_mini", {"core": Linear()}, "resnet_mini has no attention, so core and mask mean nothing to it"),
        ("gpt_mini", {"mask": Window(4) | Global([0])}, r"use mask=Causal\(\) & \(Window\(4\) \| Global"),
        ("gpt_mini", {"core": Linformer(Projection(128, 8))}, r"cannot honour mask=Causal\(\)"),
        ("bert_mini", {"core": Linear(), "mask": Window(4)}, r"cannot honour mask=Window\(4\)"),
        ("transformer_mini", {"mask": Window(4)}, r"several kinds of attention, decoder.layers.0.attention is c"),
        ("swin_mini", {"core": Performer(8)}, "cannot honour bias=RelativeTable"),
    ],
)
def test_what_a_network_cannot_have_is_one_line(name, changes, message):
    with pytest.raises(FieldguideError, match=message) as caught:
        create_model(name, **changes)
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Mine(Mask):
    """A mask of somebody's own."""

    def visible(self, b, h, q, k):
        return q == k


class MyCore(Softmax):
    """A core of somebody's own."""


def shared(model):
    model.encoder.layers[0].attention.core = model.encoder.layers[1].attention.core = Linformer(Projection(128, 8))


def half_shared(model):
    projection = Projection(128, 8)
    for layer in model.encoder.layers:
        layer.attention.core = Linformer(projection)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: swap_attention(model, mask=Mine()), "unknown mask 'Mine'"),
        (lambda model: swap_attention(model, MyCore()), "numbers alone describe"),
        (shared, "encoder.layers.1.attention shares its core, or a part of it, with encoder.layers.0.attention"),
        (half_shared, "encoder.layers.1.attention shares its core, or a part of it, with encoder.layers.0.attention"),
    ],
)
def test_what_no_text_describes_is_not_saved_as_if_one_did(change, message, tmp_path):
    model = create_model("roberta_mini")
    change(model)
    with pytest.raises(FieldguideError, match=rf"save_model: .*{message}.*could not be loaded again") as caught:
        save_model(model, tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert not any(tmp_path.iterdir())
    swap_attention(model, Softmax(), mask=Full())
    save_model(model, tmp_path / "model")


def test_a_mask_of_a_decoder_that_shows_the_future_is_not_saved(tmp_path):
    model = create_model("gpt_mini")
    model.decoder.layers[1].attention.mask = Full()
    with pytest.raises(FieldguideError, match=r"save_model: .*decoder.layers.1.attention: it is causal"):
        save_model(model, tmp_path / "model")


SWAP = {"where": "*", "core": "Performer(features=16)", "mask": "Full()", "dropout": 0.0}


@pytest.mark.parametrize(
    ("swaps", "message"),
    [
        ([SWAP | {"core": "Reformer()"}], "unknown core 'Reformer'"),
        ([SWAP | {"core": "Performer(features=0)"}], "whole numbers from 1"),
        ([SWAP | {"mask": "Windows(3)"}], "unknown mask 'Windows'"),
        ([SWAP | {"mask": "__import__('os')"}], "mask"),
        ([SWAP | {"mask": "Window(3)"}], "cannot honour"),
        ([SWAP | {"where": "decoder"}], "'decoder' selects no Attention"),
        ([SWAP | {"where": ""}], "selects no Attention"),
        ([SWAP | {"dropout": 0.5}], "cannot honour dropout=0.5"),
        ([SWAP | {"dropout": "1"}], r"1 of the wrong kind \(dropout\)"),
        ([SWAP | {"seed": 1}], r"1 unknown \(seed\)"),
        ([{"where": "*"}], "3 missing"),
        (["Performer"], r"1 of the wrong kind \(swaps\)"),
        ({}, r"1 of the wrong kind \(swaps\)"),
        ([SWAP | {"core": "Performer(features=17)"}], r"is \(16, 16\) in the file and \(17, 16\) in the model"),
        ([], "2 surplus"),
    ],
)
def test_a_description_that_is_none_is_a_damaged_file(swaps, message, tmp_path):
    save_model(create_model("bert_mini", core=Performer(features=16)), tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"swaps": swaps}))
    with pytest.raises(DamagedFile, match=message) as caught:
        load_model(tmp_path / "model")
    assert "\n" not in str(caught.value)


def test_folders_from_before_there_were_swaps_load(tmp_path):
    model = create_model("bert_mini")
    save_model(model, tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    entries = json.loads(file.read_text())
    del entries["swaps"]
    file.write_text(json.dumps(entries))
    assert torch.equal(load_model(tmp_path / "model").embeddings.tokens.weight, model.embeddings.tokens.weight)
