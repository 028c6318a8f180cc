"""Tables of names: every tensor one row, every row reversible, on random trees and on real files."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from fieldguide.weights.rows import concat, derived, ignore, interleave, reshape, split, squeeze, tied, transpose
from fieldguide.weights.table import Table

QKV = ("query", "key", "value")


def read(table, theirs):
    """Everything that a table makes of a checkpoint, which it must explain to the last tensor."""
    theirs = table.canonical(theirs)
    plan = table.plan(theirs)
    assert plan.surplus == []
    return {name: tensor for move in plan.moves for name, tensor in move(theirs).items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert torch.equal(one[name], other[name]), name


# ------------------------------------------------------------------------------------------------ the operations


def test_transpose_turns_matrices_and_leaves_vectors():
    theirs = {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.arange(2.0)}
    table = Table({"fc.*": transpose("linear.*")})
    ours = read(table, theirs)
    assert torch.equal(ours["linear.weight"], theirs["fc.weight"].T)
    assert torch.equal(ours["linear.bias"], theirs["fc.bias"])
    assert_same(table.write(ours), theirs)


def test_what_follows_from_another_tensor_is_checked_by_the_loader_and_written_back():
    table = Table({"bias.{i}.table": "biases.{i}.weight", "bias.{i}.size": derived("bias.{i}.table", size_of)})
    theirs = {f"bias.{i}.table": torch.randn(i + 2, 2) for i in range(2)}
    theirs |= {f"bias.{i}.size": torch.tensor(i + 2) for i in range(2)}
    plan = table.plan(theirs)
    assert plan.surplus == []
    assert [(move.sources, move.targets) for move in plan.derived] == [
        ((f"bias.{i}.table",), (f"bias.{i}.size",)) for i in range(2)
    ]
    ours = read(table, theirs)
    assert ours.keys() == {"biases.0.weight", "biases.1.weight"}
    assert_same(table.write(ours), theirs)
    del theirs["bias.1.size"]
    assert table.plan(theirs).surplus == [], "files may lack it"
    del theirs["bias.0.table"]
    assert table.plan(theirs).surplus == ["bias.0.size"], "nothing says what it should be"


def size_of(tensor):
    return torch.tensor(len(tensor))


def test_a_transposed_fused_projection_splits_into_its_parts():
    theirs = {"c_attn.weight": torch.arange(24.0).view(2, 12), "c_attn.bias": torch.arange(12.0)}
    table = Table({"c_attn.*": split(transpose("{part}.*"), *QKV)})
    ours = read(table, theirs)
    assert torch.equal(ours["key.weight"], theirs["c_attn.weight"][:, 4:8].T)
    assert torch.equal(ours["value.bias"], theirs["c_attn.bias"][8:])
    assert_same(table.write(ours), theirs)


def test_parts_concatenate_in_the_order_of_the_row():
    theirs = {f"attn.{part}.weight": torch.full((2, 3), float(i)) for i, part in enumerate("vkq")}
    table = Table({"attn.{part}.weight": concat("qkv.weight", "q", "k", "v")})
    ours = read(table, theirs)
    assert ours["qkv.weight"][:, 0].tolist() == [2, 2, 1, 1, 0, 0]
    assert_same(table.write(ours), theirs)


def test_a_convolution_over_the_whole_map_is_a_linear_layer():
    theirs = {"pre_logits.fc1.weight": torch.randn(5, 4, 7, 7), "head.fc.weight": torch.randn(3, 5, 1, 1)}
    table = Table(
        {
            "pre_logits.fc1.weight": reshape("classifier.0.weight", (-1, 4, 7, 7), (-1, 196)),
            "head.fc.weight": squeeze("classifier.1.weight", -2, -1),
        }
    )
    ours = read(table, theirs)
    maps = torch.randn(2, 4, 7, 7)
    convolved = torch.nn.functional.conv2d(maps, theirs["pre_logits.fc1.weight"]).flatten(1)
    torch.testing.assert_close(maps.flatten(1) @ ours["classifier.0.weight"].T, convolved)
    assert ours["classifier.1.weight"].shape == (3, 5)
    assert_same(table.write(ours), theirs)


def test_interleaved_features_alternate_on_one_axis_and_leave_tensors_without_it():
    theirs = {
        "fc.weight": torch.arange(12.0).view(3, 4),
        "fc.bias": torch.arange(3.0),
        "norm.weight": torch.arange(6.0),
    }
    table = Table({"fc.*": interleave("linear.*", axis=1), "norm.*": interleave("scale.*", axis=0)})
    ours = read(table, theirs)
    assert ours["linear.weight"][0].tolist() == [0, 2, 1, 3]
    assert ours["linear.bias"].tolist() == [0, 1, 2]
    assert ours["scale.weight"].tolist() == [0, 3, 1, 4, 2, 5]
    assert_same(table.write(ours), theirs)


@pytest.mark.parametrize("axes", [(0,), (0, 1), (1, 3), (-1, -2), (-3, -1), (0, -1)])
def test_squeezing_is_undone_at_the_same_axes(axes):
    shape = [2, 3, 4, 5]
    for axis in axes:
        shape[axis] = 1
    theirs = {"a": torch.randn(shape)}
    table = Table({"a": squeeze("b", *axes)})
    ours = read(table, theirs)
    assert ours["b"].ndim == 4 - len(axes)
    assert_same(table.write(ours), theirs)


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        (split("{part}", *QKV), (4, 2)),
        (squeeze("b", 0), (2, 3)),
        (reshape("b", (-1, 4), (-1, 2, 2)), (3, 3)),
        (interleave("b", 0), (3,)),
    ],
)
def test_a_shape_that_a_row_cannot_change_is_an_error(row, shape):
    table = Table({"a": row})
    (move,) = table.plan(["a"]).moves
    with pytest.raises((ValueError, RuntimeError)):
        move({"a": torch.zeros(shape)})


# --------------------------------------------------------------------------------------------------- the matching


def test_names_that_no_row_knows_are_surplus():
    plan = Table({"fc.*": "head.*"}).plan(["fc.weight", "fc2.weight", "aux.fc.weight"])
    assert plan.surplus == ["fc2.weight", "aux.fc.weight"]


def test_parts_without_their_siblings_are_surplus():
    plan = Table({"attn.{part}.*": concat("qkv.*", "q", "k", "v")}).plan(["attn.q.weight", "attn.v.weight"])
    assert (plan.moves, plan.surplus) == ([], ["attn.q.weight", "attn.v.weight"])


def test_two_rows_for_one_name_are_a_mistake_in_the_table():
    with pytest.raises(ValueError, match="2 rows"):
        Table({"fc.*": "head.*", "fc.weight": "head.weight"}).plan(["fc.weight"])
    with pytest.raises(ValueError, match="two rows"):
        Table({"fc.*": "head.*", "*.position": ignore("an index")}).plan(["fc.position"])
    with pytest.raises(ValueError, match="different indices"):
        Table({"h.{i}.*": "layers.*"})


def test_two_names_for_one_tensor_are_not_both_taken():
    plan = Table({"fc.weight": "head.weight", "classifier.weight": "head.weight"}).plan(
        ["fc.weight", "classifier.weight"]
    )
    assert [move.sources for move in plan.moves] == [("fc.weight",)]
    assert plan.surplus == ["classifier.weight"]


def test_ignored_names_carry_their_reason_and_are_not_written():
    table = Table({"fc.*": "head.*", "h.{i}.attn.bias": ignore("the causal mask")})
    plan = table.plan(["fc.weight", "h.3.attn.bias"])
    assert plan.ignored == {"h.3.attn.bias": "the causal mask"}
    assert table.write({"head.weight": torch.ones(1)}).keys() == {"fc.weight"}


@pytest.mark.parametrize("present", [["shared"], ["shared", "enc"], ["enc"], ["dec", "enc"], ["shared", "enc", "dec"]])
def test_a_tied_tensor_may_have_any_of_its_names(present):
    table = Table({"shared": "tokens.weight", "enc": tied("shared"), "dec": tied("shared")})
    plan = table.plan(present)
    tensors = dict.fromkeys(present, torch.ones(2))
    assert [move(tensors).keys() for move in plan.moves] == [{"tokens.weight"}]
    assert len(plan.repeats) == len(present) - 1
    assert plan.surplus == []
    assert table.write({"tokens.weight": torch.ones(2)}).keys() == {"shared"}


def test_old_names_become_current_ones():
    table = Table(
        {"bert.norm.*": "norm.*"}, aliases={"*.gamma": "*.weight", "*.beta": "*.bias", "norm.*": "bert.norm.*"}
    )
    assert table.canonical({"norm.gamma": torch.ones(1), "bert.norm.beta": torch.ones(1)}).keys() == {
        "bert.norm.weight",
        "bert.norm.bias",
    }
    both = table.canonical({"bert.norm.weight": torch.ones(1), "bert.norm.gamma": torch.zeros(1)})
    assert both.keys() == {"bert.norm.weight", "bert.norm.gamma"}  # the second arrives nowhere, and is reported


def test_what_a_layout_never_has_is_not_written():
    table = Table({"bn.*": "norm.*"}, absent={"*.num_batches_tracked": "never counted"})
    ours = {"norm.weight": torch.ones(2), "norm.num_batches_tracked": torch.tensor(3)}
    assert table.write(ours).keys() == {"bn.weight"}
    assert table.why_missing("norm.num_batches_tracked") == "never counted"
    assert table.why_missing("norm.weight") is None


def test_a_tensor_without_a_row_cannot_be_written():
    with pytest.raises(KeyError, match="tail"):
        Table({"fc.*": "head.*"}).write({"head.weight": torch.ones(1), "tail.weight": torch.ones(1)})


# ------------------------------------------------------------------------------------------------------- the inverse

EVERYTHING = Table(
    {
        "stem.*": "first.*",
        "layer{s+1}.{i}.conv{k+1}.*": "stages.{s}.{i}.convs.{k}.*",
        "features.{2*s+1}.{i}.attn.qkv.*": split("levels.{s}.{i}.{part}.*", *QKV),
        "h.{i}.c_attn.*": split(transpose("blocks.{i}.{part}.*"), *QKV),
        "enc.{i}.{part}_proj.*": concat("encoder.{i}.fused.*", "q", "k"),
        "grid.{i}": reshape("grids.{i}", (-1, 2, 3), (-1, 6)),
        "token.{i}": squeeze("tokens.{i}", 0, 1),
    }
)
INDEX = st.integers(0, 12)
LEAF = st.sampled_from(["weight", "bias", "inner.weight"])


@st.composite
def trees(draw):
    """Random checkpoints whose names the table knows: any depths, dtypes and sizes."""
    tensors = {}
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def tensor(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    width = draw(st.integers(1, 4))
    for _ in range(draw(st.integers(0, 12))):
        s, i, k, leaf = draw(INDEX), draw(INDEX), draw(INDEX), draw(LEAF)
        match draw(st.integers(0, 6)):
            case 0:
                tensors[f"stem.{leaf}"] = tensor(width)
            case 1:
                tensors[f"layer{s + 1}.{i}.conv{k + 1}.{leaf}"] = tensor(width, 2, 3, 3)
            case 2:
                tensors[f"features.{2 * s + 1}.{i}.attn.qkv.{leaf}"] = tensor(3 * width, 2)
            case 3:
                tensors[f"h.{i}.c_attn.{leaf}"] = tensor(3 * width) if leaf == "bias" else tensor(2, 3 * width)
            case 4:
                tensors |= {f"enc.{i}.{part}_proj.{leaf}": tensor(width, 2) for part in "qk"}
            case 5:
                tensors[f"grid.{i}"] = tensor(width, 2, 3)
            case 6:
                tensors[f"token.{i}"] = tensor(1, 1, width)
    return tensors


@given(trees())
def test_writing_what_was_read_gives_the_same_names_and_bits(theirs):
    ours = read(EVERYTHING, theirs)
    assert sum(tensor.numel() for tensor in ours.values()) == sum(tensor.numel() for tensor in theirs.values())
    assert_same(EVERYTHING.write(ours), theirs)
    assert sorted(EVERYTHING.theirs(ours)) == sorted(theirs)


# ------------------------------------------------------------------------------- files that transformers really writes

LAYER_NORMS = {"*.gamma": "*.weight", "*.beta": "*.bias"}

GPT2 = Table(
    {
        "transformer.wte.weight": "tokens.weight",
        "transformer.wpe.weight": "positions.weight",
        "transformer.h.{i}.ln_1.*": "layers.{i}.attention_norm.*",
        "transformer.h.{i}.attn.c_attn.*": split(transpose("layers.{i}.attention.{part}.*"), *QKV),
        "transformer.h.{i}.attn.c_proj.*": transpose("layers.{i}.attention.output.*"),
        "transformer.h.{i}.ln_2.*": "layers.{i}.feedforward_norm.*",
        "transformer.h.{i}.mlp.c_fc.*": transpose("layers.{i}.feedforward.expand.*"),
        "transformer.h.{i}.mlp.c_proj.*": transpose("layers.{i}.feedforward.project.*"),
        "transformer.ln_f.*": "norm.*",
        "transformer.h.{i}.attn.bias": ignore("the causal mask"),
        "lm_head.weight": tied("transformer.wte.weight"),
    },
    aliases={"h.{i}.*": "transformer.h.{i}.*"}
    | {f"{name}.*": f"transformer.{name}.*" for name in ("wte", "wpe", "ln_f")},
)
BERT = Table(
    {
        "bert.embeddings.word_embeddings.weight": "tokens.weight",
        "bert.embeddings.position_embeddings.weight": "positions.weight",
        "bert.embeddings.token_type_embeddings.weight": "segments.weight",
        "bert.embeddings.LayerNorm.*": "norm.*",
        "bert.embeddings.position_ids": ignore("an index"),
        "bert.encoder.layer.{i}.attention.self.{part}.*": concat("layers.{i}.attention.fused.*", *QKV),
        "bert.encoder.layer.{i}.attention.output.dense.*": "layers.{i}.attention.output.*",
        "bert.encoder.layer.{i}.attention.output.LayerNorm.*": "layers.{i}.attention_norm.*",
        "bert.encoder.layer.{i}.intermediate.dense.*": "layers.{i}.feedforward.expand.*",
        "bert.encoder.layer.{i}.output.dense.*": "layers.{i}.feedforward.project.*",
        "bert.encoder.layer.{i}.output.LayerNorm.*": "layers.{i}.feedforward_norm.*",
        "cls.predictions.transform.*": "head.transform.*",
        "cls.predictions.bias": "head.bias",
        "cls.predictions.decoder.weight": tied("bert.embeddings.word_embeddings.weight"),
        "cls.predictions.decoder.bias": tied("cls.predictions.bias"),
    },
    aliases=LAYER_NORMS,
)
T5 = Table(
    {
        "shared.weight": "tokens.weight",
        **{
            f"{stack}.{theirs}": f"{stack}.{ours}"
            for stack in ("encoder", "decoder")
            for theirs, ours in {
                "block.{i}.layer.0.*": "layers.{i}.attention.*",
                "final_layer_norm.weight": "norm.weight",
            }.items()
        },
        "encoder.block.{i}.layer.1.*": "encoder.layers.{i}.feedforward.*",
        "decoder.block.{i}.layer.1.*": "decoder.layers.{i}.cross_attention.*",
        "decoder.block.{i}.layer.2.*": "decoder.layers.{i}.feedforward.*",
    }
    | {f"{stack}.embed_tokens.weight": tied("shared.weight") for stack in ("encoder", "decoder")}
)


def on_disk(model, folder):
    """What ``save_pretrained`` really writes; names in memory differ since transformers 5."""
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def test_gpt2_files_with_any_of_their_names(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=8, n_layer=3, n_head=2, vocab_size=11, n_positions=6)
    theirs = on_disk(transformers.GPT2LMHeadModel(config), tmp_path)
    ours = read(GPT2, theirs)
    assert_same(GPT2.write(ours), theirs)
    assert torch.equal(ours["layers.2.attention.key.weight"], theirs["transformer.h.2.attn.c_attn.weight"][:, 8:16].T)
    old = {name.removeprefix("transformer."): tensor for name, tensor in theirs.items()}
    old |= {f"h.{i}.attn.bias": torch.ones(1, 1, 6, 6) for i in range(3)} | {"lm_head.weight": old["wte.weight"]}
    assert_same(read(GPT2, old), ours)


def test_bert_files_with_current_and_tensorflow_names(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=11
    )
    theirs = on_disk(transformers.BertForMaskedLM(config), tmp_path)
    ours = read(BERT, theirs)
    assert_same(BERT.write(ours), theirs)
    query = theirs["bert.encoder.layer.1.attention.self.query.weight"]
    assert torch.equal(ours["layers.1.attention.fused.weight"][:8], query)
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in theirs.items()
    } | {"bert.embeddings.position_ids": torch.arange(512)[None]}
    assert old.keys() != theirs.keys()
    assert_same(read(BERT, old), ours)


def test_t5_files_with_one_or_three_copies_of_the_embedding(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2, vocab_size=11)
    theirs = on_disk(transformers.T5ForConditionalGeneration(config), tmp_path)
    ours = read(T5, theirs)
    assert_same(T5.write(ours), theirs)
    shared = theirs["shared.weight"]
    copies = {"encoder.embed_tokens.weight": shared, "decoder.embed_tokens.weight": shared}
    assert_same(read(T5, theirs | copies), ours)
    without = {name: tensor for name, tensor in theirs.items() if name != "shared.weight"}
    assert_same(read(T5, without | copies), ours)
