"""How transformers calls the tensors of a T5, of v1.1 and of FLAN-T5."""

from fieldguide.weights.adapt import vocabulary
from fieldguide.weights.family import Family
from fieldguide.weights.rows import ignore, tied
from fieldguide.weights.table import Table

TRANSFORMERS = {
    "shared.weight": "tokens.weight",
    "encoder.embed_tokens.weight": tied("shared.weight"),
    "decoder.embed_tokens.weight": tied("shared.weight"),
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "encoder.bias.table.weight",
    "encoder.block.{i}.layer.0.SelfAttention.q.weight": "encoder.layers.{i}.attention.query.weight",
    "encoder.block.{i}.layer.0.SelfAttention.k.weight": "encoder.layers.{i}.attention.key.weight",
    "encoder.block.{i}.layer.0.SelfAttention.v.weight": "encoder.layers.{i}.attention.value.weight",
    "encoder.block.{i}.layer.0.SelfAttention.o.weight": "encoder.layers.{i}.attention.output.weight",
    "encoder.block.{i}.layer.0.layer_norm.weight": "encoder.layers.{i}.attention_norm.weight",
    "encoder.block.{i}.layer.1.DenseReluDense.wo.weight": "encoder.layers.{i}.feedforward.contract.weight",
    "encoder.block.{i}.layer.1.layer_norm.weight": "encoder.layers.{i}.feedforward_norm.weight",
    "encoder.final_layer_norm.weight": "encoder.norm.weight",
    "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "decoder.bias.table.weight",
    "decoder.block.{i}.layer.0.SelfAttention.q.weight": "decoder.layers.{i}.attention.query.weight",
    "decoder.block.{i}.layer.0.SelfAttention.k.weight": "decoder.layers.{i}.attention.key.weight",
    "decoder.block.{i}.layer.0.SelfAttention.v.weight": "decoder.layers.{i}.attention.value.weight",
    "decoder.block.{i}.layer.0.SelfAttention.o.weight": "decoder.layers.{i}.attention.output.weight",
    "decoder.block.{i}.layer.0.layer_norm.weight": "decoder.layers.{i}.attention_norm.weight",
    "decoder.block.{i}.layer.1.EncDecAttention.q.weight": "decoder.layers.{i}.cross_attention.query.weight",
    "decoder.block.{i}.layer.1.EncDecAttention.k.weight": "decoder.layers.{i}.cross_attention.key.weight",
    "decoder.block.{i}.layer.1.EncDecAttention.v.weight": "decoder.layers.{i}.cross_attention.value.weight",
    "decoder.block.{i}.layer.1.EncDecAttention.o.weight": "decoder.layers.{i}.cross_attention.output.weight",
    "decoder.block.{i}.layer.1.layer_norm.weight": "decoder.layers.{i}.cross_attention_norm.weight",
    "decoder.block.{i}.layer.2.DenseReluDense.wo.weight": "decoder.layers.{i}.feedforward.contract.weight",
    "decoder.block.{i}.layer.2.layer_norm.weight": "decoder.layers.{i}.feedforward_norm.weight",
    "decoder.final_layer_norm.weight": "decoder.norm.weight",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": ignore(
        "old files have distances between source and target, which the network never used"
    ),
}
ORIGINAL = {
    "encoder.block.{i}.layer.1.DenseReluDense.wi.weight": "encoder.layers.{i}.feedforward.expand.weight",
    "decoder.block.{i}.layer.2.DenseReluDense.wi.weight": "decoder.layers.{i}.feedforward.expand.weight",
    "lm_head.weight": tied("shared.weight"),
}
V1_1 = {
    "encoder.block.{i}.layer.1.DenseReluDense.wi_0.weight": "encoder.layers.{i}.feedforward.gate.weight",
    "encoder.block.{i}.layer.1.DenseReluDense.wi_1.weight": "encoder.layers.{i}.feedforward.expand.weight",
    "decoder.block.{i}.layer.2.DenseReluDense.wi_0.weight": "decoder.layers.{i}.feedforward.gate.weight",
    "decoder.block.{i}.layer.2.DenseReluDense.wi_1.weight": "decoder.layers.{i}.feedforward.expand.weight",
    "lm_head.weight": "head.weight",
}

FAMILY = Family(
    name="t5",
    layouts={"transformers": (Table(TRANSFORMERS | ORIGINAL), Table(TRANSFORMERS | V1_1))},
    head=(),  # the output layer knows the vocabulary, which fine-tuning keeps
    adapt={"tokens.weight": vocabulary, "head.weight": vocabulary},
)
