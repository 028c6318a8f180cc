"""Whole networks from files of another image size, length or vocabulary: what is kept, what is new, what is said."""

import pytest
import torch

from fieldguide import catalog
from fieldguide.errors import FieldguideError
from fieldguide.models import create_model, load_model, save_model
from fieldguide.weights import export_weights, load_weights
from fieldguide.weights.adapt import resize_grid
from fieldguide.weights.family import family_named

TEXT = [row.family for row in catalog.ARCHITECTURES if row.task in ("encode", "generate", "translate")]
TABLES = {"t5": "tokens.weight"}
PUBLIC = [family for family in TEXT if family_named(family).layouts]
HEADS = [("bert", "masked_lm"), ("bert", "pretrain"), ("roberta", "masked_lm"), ("distilbert", "masked_lm")]


def file_of(model, folder):
    """A file of transformers, or where there are none a folder of our own."""
    if family_named(model.name.removesuffix("_mini")).layouts:
        return export_weights(model, "transformers")
    save_model(model, folder)
    return folder


@pytest.mark.parametrize("longer", [False, True])
@pytest.mark.parametrize("family", TEXT)
def test_another_vocabulary_keeps_its_words(family, longer, tmp_path):
    published = create_model(f"{family}_mini").eval()
    old = published.config.vocab_size
    new = old + 44 if longer else old - 44
    model = create_model(f"{family}_mini", file_of(published, tmp_path / "model"), vocab_size=new).eval()
    table = TABLES.get(family, "embeddings.tokens.weight")
    assert model.loaded.adapted.keys() == {table}
    assert f"adapted {table}: ({old}, " in str(model.loaded)
    before, after = published.state_dict(), model.state_dict()
    both = min(old, new)
    assert torch.equal(after[table][:both], before[table][:both])
    torch.testing.assert_close(after[table][both:], before[table].mean(0).expand(new - both, -1))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items() if name != table)
    tokens = torch.arange(5, 25).view(2, 10)
    inputs = (tokens, tokens) if family in ("t5", "transformer") else (tokens,)
    one, other = published(*inputs), model(*inputs)
    width = min(one.shape[-1], other.shape[-1])
    torch.testing.assert_close(other[..., :width], one[..., :width], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("family", "head"), HEADS)
def test_the_shifts_of_masked_tokens_come_along(family, head):
    published = create_model(f"{family}_mini", head=head)
    name = "head.masked.bias" if head == "pretrain" else "head.bias"
    published.get_parameter(name).data.normal_()
    model = create_model(f"{family}_mini", export_weights(published, "transformers"), head=head, vocab_size=300)
    ours, theirs = model.get_parameter(name), published.get_parameter(name)
    assert torch.equal(ours[:260], theirs)
    torch.testing.assert_close(ours[260:], theirs.mean().expand(40))
    assert model.loaded.adapted.keys() == {"embeddings.tokens.weight", name}
    assert model.loaded.kept == {}
    exported = export_weights(model, "transformers")
    for key, tensor in export_weights(published, "transformers").items():
        assert torch.equal(exported[key][: len(tensor)], tensor), f"{key}: what was there is written back bit for bit"


def test_outputs_that_are_not_tied_are_resized_on_their_own():
    geglu = {"feedforward": "geglu", "tied": False}
    published = create_model("t5_mini", **geglu)
    theirs = export_weights(published, "transformers")
    model = create_model("t5_mini", theirs, **geglu, vocab_size=300)
    assert model.loaded.adapted.keys() == {"tokens.weight", "head.weight"}
    for name in model.loaded.adapted:
        ours, old = model.get_parameter(name), published.get_parameter(name)
        assert torch.equal(ours[:260], old)
        torch.testing.assert_close(ours[260:], old.mean(0).expand(40, -1))
    translator = create_model("transformer_mini", output_bias=True)
    translator.output_bias.data.normal_()
    file = export_weights(translator, "transformers")
    smaller = create_model("transformer_mini", file, output_bias=True, vocab_size=200)
    assert torch.equal(smaller.output_bias, translator.output_bias[:200])


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "gpt", "gpt_neo", "performer", "linformer"])
@pytest.mark.parametrize("length", [96, 160])
def test_another_length_keeps_the_places_that_there_are(family, length, tmp_path):
    """RoBERTa's two rows of padding stand before its places and stay there."""
    published = create_model(f"{family}_mini").eval()
    torch.manual_seed(1)
    own = create_model(f"{family}_mini", max_len=length)
    torch.manual_seed(1)
    model = create_model(f"{family}_mini", file_of(published, tmp_path / "model"), max_len=length).eval()
    places, old = (net.embeddings.positions.weight for net in (model, published))
    both = min(len(places), len(old))
    assert len(places) == length + (2 if family == "roberta" else 0)
    assert torch.equal(places[:both], old[:both])
    assert torch.equal(places[both:], own.embeddings.positions.weight[both:]), "the rest starts as it always does"
    assert "embeddings.positions.weight" in model.loaded.adapted
    tokens = torch.randint(5, 250, (2, min(96, length)))
    torch.testing.assert_close(model(tokens), published(tokens), rtol=0, atol=1e-5)
    if length > 128:
        assert model(torch.randint(5, 250, (1, length))).shape[1] == length


def test_without_being_asked_nothing_is_resized():
    file = export_weights(create_model("gpt_mini", vocab_size=300), "transformers")
    with pytest.raises(FieldguideError, match=r"wte.weight is \(300, 64\).*create the model with vocab_size=300"):
        create_model("gpt_mini", file)
    longer = export_weights(create_model("bert_mini", max_len=256), "transformers")
    with pytest.raises(FieldguideError, match=r"\(256, 64\) in the checkpoint.*strict=False to adapt embeddings.pos"):
        create_model("bert_mini", longer)
    with pytest.raises(FieldguideError, match=r"to adapt embeddings.tokens.weight, head.bias"):
        load_weights(
            create_model("bert_mini", head="masked_lm"),
            export_weights(create_model("bert_mini", head="masked_lm", vocab_size=99), "transformers"),
        )


SIZES = [(32, 48), (20, 32), (64, 16), (32, 32), 48]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("layout", ["torchvision", "timm", "transformers"])
def test_a_vit_for_another_image(size, layout):
    published = create_model("vit_mini").eval()
    model = create_model("vit_mini", export_weights(published, layout), image_size=size).eval()
    height, width = (size, size) if isinstance(size, int) else size
    grid = (height // 4, width // 4)
    old, new = published.positions.weight, model.positions.weight
    assert torch.equal(new[0], old[0])
    assert torch.equal(new[1:], resize_grid(old[1:], (8, 8), grid))
    images = torch.randn(2, 1, height, width)
    assert model(images).shape == (2, 10)
    assert model.features(images)[0].shape == (2, 64, *grid)
    if (height, width) == (32, 32):
        assert model.loaded.adapted == {}
        assert torch.equal(model(images), published(images))
    exported = export_weights(model, layout)
    theirs = export_weights(published, layout)
    assert all(torch.equal(exported[name], tensor) for name, tensor in theirs.items() if "pos" not in name)


def test_from_one_oblong_image_to_another(tmp_path):
    """Only the configuration beside the weights says how 16 patches lie: as 8 × 2, not as 4 × 4."""
    first = create_model("vit_mini", image_size=(32, 8)).eval()
    save_model(first, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.config.image_size == (32, 8)
    assert torch.equal(loaded(torch.ones(1, 1, 32, 8)), first(torch.ones(1, 1, 32, 8)))
    expected = resize_grid(first.positions.weight[1:], (8, 2), (3, 5))
    second = create_model("vit_mini", tmp_path / "model", image_size=(12, 20))
    assert torch.equal(second.positions.weight[1:], expected)
    same_count = create_model("vit_mini", tmp_path / "model", image_size=16)
    assert torch.equal(same_count.positions.weight[1:], resize_grid(first.positions.weight[1:], (8, 2), (4, 4)))
    assert "for 4×4 patches" in same_count.loaded.adapted["positions.weight"]
    again = create_model("vit_mini", image_size=(32, 8))
    load_weights(again, first.state_dict(), strict=False)
    load_weights(again, export_weights(first, "timm"))
    assert torch.equal(again.positions.weight, first.positions.weight), "where nothing is asked nothing changes"
    third = create_model("vit_mini", image_size=(12, 20))
    load_weights(third, tmp_path / "model", strict=False)
    assert torch.equal(third.positions.weight[1:], expected)


@pytest.mark.parametrize("size", [(30, 32), (32, 30), 30, (32,), (32, 32, 32), (32, 32.0), "32", True])
def test_a_size_that_cannot_be_is_one_line(size):
    with pytest.raises(FieldguideError, match="image_size") as caught:
        create_model("vit_mini", image_size=size)
    assert "\n" not in str(caught.value)


def test_height_and_width_are_not_taken_for_each_other():
    model = create_model("vit_mini", image_size=(32, 16)).eval()
    with pytest.raises(FieldguideError, match=r"takes images \(batch, 1, 32, 16\), got \(1, 1, 16, 32\)"):
        model(torch.zeros(1, 1, 16, 32))
    with pytest.raises(FieldguideError, match=r"use image_size=\(32, 28\)|use image_size=\(32, 32\)"):
        create_model("vit_mini", image_size=(32, 30))


def test_another_window_of_swin_stretches_its_table():
    published = create_model("swin_mini").eval()
    file = export_weights(published, "torchvision")
    with pytest.raises(FieldguideError, match=r"position_bias_table is \(49, 2\) in the checkpoint, \(121, 2\)"):
        load_weights(create_model("swin_mini", window_size=6), file)
    model = create_model("swin_mini", file, window_size=6).eval()
    assert all(name.endswith("attention.bias.table") for name in model.loaded.adapted)
    assert len(model.loaded.adapted) == 4
    assert model(torch.randn(1, 1, 24, 36)).shape == (1, 10)
    same = create_model("swin_mini", file).eval()  # the windows stay as they are, so any image will do
    assert torch.equal(same(torch.ones(1, 1, 24, 40)), published(torch.ones(1, 1, 24, 40)))


OBLONG = [row for row in catalog.ARCHITECTURES if row.image]


@pytest.mark.parametrize("row", OBLONG, ids=lambda row: row.family)
def test_images_need_not_be_square(row):
    side = row.mini_image[1]
    size = {"image_size": (side, side // 2)} if row.family == "vit" else {}
    model = create_model(f"{row.family}_mini", **size).eval()
    images = torch.randn(2, model.config.in_channels, side, side // 2)
    if row.family == "lenet":  # its first linear layer knows one size
        with pytest.raises(FieldguideError, match="takes images of 32×32 pixels"):
            model(images)
    else:
        assert model(images).shape == (2, 10)
