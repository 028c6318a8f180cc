"""Files of BERT, RoBERTa and DistilBERT: the encoder of any file goes into any model, a head only into its own.

That networks agree is in ``test_text_parity.py``; here is what becomes of every kind of file.
"""

from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fieldguide.errors import FieldguideError
from fieldguide.models import create_model
from fieldguide.weights import export_weights, load_weights

transformers = pytest.importorskip("transformers")

WIDTHS = {"vocab_size": 50, "d_model": 32, "num_layers": 2, "num_heads": 4, "d_ff": 48}
THEIRS = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "num_labels": 3,
}


class Kind(NamedTuple):
    """A family: the prefix of its class names, its config there, and ours."""

    library: str
    config: dict[str, Any]
    ours: dict[str, Any]


KINDS = {
    "bert": Kind("Bert", THEIRS | {"max_position_embeddings": 20}, WIDTHS | {"max_len": 20}),
    "roberta": Kind(
        "Roberta", THEIRS | {"max_position_embeddings": 22, "type_vocab_size": 1}, WIDTHS | {"max_len": 20}
    ),
    "distilbert": Kind(
        "DistilBert",
        {"vocab_size": 50, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "num_labels": 3}
        | {"max_position_embeddings": 20},
        WIDTHS | {"max_len": 20},
    ),
}
HEADS = {"Model": "encode", "ForMaskedLM": "masked_lm", "ForSequenceClassification": "classify"}
OTHERS = ("ForQuestionAnswering", "ForTokenClassification")
each_family = pytest.mark.parametrize("family", KINDS)


@pytest.fixture(scope="module")
def file_of(tmp_path_factory):
    """Writes a file as transformers does, with random values everywhere, once each."""
    files: dict[tuple[str, str], Any] = {}

    def write(family, kind):
        if (family, kind) not in files:
            torch.manual_seed(len(files))
            library, config, _ = KINDS[family]
            config = config | ({"num_labels": 2} if kind == "ForQuestionAnswering" else {})
            theirs = getattr(transformers, library + kind)(getattr(transformers, f"{library}Config")(**config))
            for parameter in theirs.parameters():
                nn.init.normal_(parameter, std=0.1)
            folder = tmp_path_factory.mktemp("file")
            theirs.save_pretrained(folder)
            files[family, kind] = folder / "model.safetensors"
        return files[family, kind]

    return write


def model_of(family, head, **changes):
    torch.manual_seed(99)
    return create_model(f"{family}_base", head=head, **KINDS[family].ours, **({"num_classes": 3} | changes))


@each_family
@pytest.mark.parametrize("kind", [*HEADS, *OTHERS])
def test_the_encoder_comes_out_of_every_file(family, kind, file_of):
    model = model_of(family, "encode")
    report = load_weights(model, file_of(family, kind))
    words = next(tensor for name, tensor in load_file(file_of(family, kind)).items() if "word_emb" in name)
    assert torch.equal(model.embeddings.tokens.weight, words)
    assert set(report.kept) <= {"head.pooler.dense.weight", "head.pooler.dense.bias"}
    has_pooler = any("pooler" in name for name in load_file(file_of(family, kind)))
    assert bool(report.kept) == (family != "distilbert" and not has_pooler)


@each_family
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("head", HEADS.values())
def test_a_head_is_read_from_its_own_file_and_kept_with_others(family, kind, head, file_of):
    model, path = model_of(family, head), file_of(family, kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if head not in ("encode", HEADS[kind]):
        with pytest.raises(FieldguideError, match=r"missing .*pass strict=False to keep the model's own head$"):
            load_weights(model, path)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    report = load_weights(model, path, strict=False)
    kept = {name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])}
    assert kept == set(report.kept)
    assert all(name.startswith("head.") for name in kept)
    assert not kept or head != HEADS[kind]


@each_family
def test_a_classifier_of_other_classes_is_kept_in_fine_tuning(family, file_of):
    model = model_of(family, "classify", num_classes=7)
    with pytest.raises(FieldguideError, match="create the model with num_classes=3 or pass strict=False"):
        load_weights(model, file_of(family, "ForSequenceClassification"))
    report = load_weights(model, file_of(family, "ForSequenceClassification"), strict=False)
    assert report.kept.keys() == {"head.output.weight", "head.output.bias"}


def test_a_file_of_both_tasks_fits_all(file_of):
    path = file_of("bert", "ForPreTraining")
    for head in ("encode", "masked_lm", "pretrain"):
        assert not load_weights(model_of("bert", head), path).kept
    report = load_weights(model_of("bert", "classify"), path, strict=False)
    assert report.kept.keys() == {"head.output.weight", "head.output.bias"}, "the pooler is taken"
    assert any("seq_relationship" in name for name in report.ignored)


def test_without_a_pooler_theirs_is_ignored(file_of):
    report = load_weights(model_of("bert", "encode", pooler=False), file_of("bert", "Model"))
    assert report.ignored.keys() == {"pooler.dense.weight", "pooler.dense.bias"}
    assert not report.kept


def test_names_of_old_files(file_of, tmp_path):
    new = load_file(file_of("bert", "ForPreTraining"))
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in new.items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(20)[None]
    old["cls.predictions.decoder.weight"] = new["bert.embeddings.word_embeddings.weight"].clone()
    old["cls.predictions.decoder.bias"] = new["cls.predictions.bias"].clone()
    assert sum("gamma" in name for name in old) == 6
    save_file(old, tmp_path / "old.safetensors")
    for head in ("encode", "pretrain"):
        one, other = model_of("bert", head), model_of("bert", head)
        report = load_weights(one, tmp_path / "old.safetensors")
        load_weights(other, file_of("bert", "ForPreTraining"))
        assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
        assert "0, 1, 2" in " ".join(report.ignored.values())
    exported = export_weights(model_of("bert", "pretrain"), "transformers")
    assert exported.keys() == new.keys(), "written under current names, tied tensors once"


@pytest.mark.parametrize(
    ("family", "head", "decoder"),
    [
        ("bert", "masked_lm", "cls.predictions.decoder.weight"),
        ("roberta", "masked_lm", "lm_head.decoder.weight"),
        ("distilbert", "masked_lm", "vocab_projector.weight"),
    ],
)
def test_an_output_that_is_not_tied_is_refused(family, head, decoder, file_of):
    state = load_file(file_of(family, "ForMaskedLM"))
    words = next(tensor for name, tensor in state.items() if "word_emb" in name)
    load_weights(model_of(family, head), state | {decoder: words.clone()})
    with pytest.raises(FieldguideError, match=f"two tensors, {decoder} and .*word_embeddings.weight, where"):
        load_weights(model_of(family, head), state | {decoder: words + 1})


@pytest.mark.parametrize(
    ("file", "into", "looks"),
    [
        ("roberta", "bert", "roberta"),
        ("bert", "roberta", "bert"),
        ("distilbert", "bert", "distilbert"),
        ("bert", "distilbert", "bert"),
    ],
)
def test_a_siblings_file_is_told_apart(file, into, looks, file_of):
    with pytest.raises(
        FieldguideError, match=rf"does not fit {into}_base: .*it looks like a {looks} of .*transformers"
    ):
        load_weights(model_of(into, "masked_lm"), file_of(file, "ForMaskedLM"))


def test_a_published_size_of_a_sibling_is_named():
    """Of the encoder alone: BERT's and RoBERTa's files have the same names, and only numbers tell them apart."""
    with torch.device("meta"):
        file = export_weights(create_model("roberta_base"), "transformers")
        model = create_model("bert_base")
    assert "embeddings.word_embeddings.weight" in file
    with pytest.raises(
        FieldguideError, match=r"looks like roberta_base in transformers layout; create roberta_base for it$"
    ):
        load_weights(model, file)
