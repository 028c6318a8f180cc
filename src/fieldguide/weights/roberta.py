"""Public weights of RoBERTa, as they are on disk: of the encoder, or below one of its heads."""

from fieldguide.weights.adapt import first_rows, vocabulary
from fieldguide.weights.encoders import encoder_tables
from fieldguide.weights.family import Family
from fieldguide.weights.rows import ignore, tied

ENCODER = {
    "roberta.embeddings.word_embeddings.weight": "embeddings.tokens.weight",
    "roberta.embeddings.position_embeddings.weight": "embeddings.positions.weight",
    "roberta.embeddings.token_type_embeddings.weight": "embeddings.segments.weight",
    "roberta.embeddings.LayerNorm.*": "embeddings.norm.*",
    "roberta.embeddings.position_ids": ignore("0, 1, 2, …, which old files store"),
    "roberta.encoder.layer.{i}.attention.self.query.*": "encoder.layers.{i}.attention.query.*",
    "roberta.encoder.layer.{i}.attention.self.key.*": "encoder.layers.{i}.attention.key.*",
    "roberta.encoder.layer.{i}.attention.self.value.*": "encoder.layers.{i}.attention.value.*",
    "roberta.encoder.layer.{i}.attention.output.dense.*": "encoder.layers.{i}.attention.output.*",
    "roberta.encoder.layer.{i}.attention.output.LayerNorm.*": "encoder.layers.{i}.attention_norm.*",
    "roberta.encoder.layer.{i}.intermediate.dense.*": "encoder.layers.{i}.feedforward.expand.*",
    "roberta.encoder.layer.{i}.output.dense.*": "encoder.layers.{i}.feedforward.contract.*",
    "roberta.encoder.layer.{i}.output.LayerNorm.*": "encoder.layers.{i}.feedforward_norm.*",
    "qa_outputs.*": ignore("the head of a model that finds answers in a text"),
    "classifier.weight": ignore("the head of a model that tags tokens"),
    "classifier.bias": ignore("the head of a model that tags tokens"),
}
POOLER = {"roberta.pooler.dense.*": "head.pooler.dense.*"}
MASKED_TOKENS = {
    "lm_head.dense.*": "head.transform.*",
    "lm_head.layer_norm.*": "head.norm.*",
    "lm_head.bias": "head.bias",
    "lm_head.decoder.weight": tied("roberta.embeddings.word_embeddings.weight"),
    "lm_head.decoder.bias": tied("lm_head.bias"),
}
CLASSIFIER = {"classifier.dense.*": "head.pooler.dense.*", "classifier.out_proj.*": "head.output.*"}

FAMILY = Family(
    name="roberta",
    layouts={
        "transformers": encoder_tables(
            "roberta.", ENCODER, bare=(POOLER, {}), headed=(MASKED_TOKENS, CLASSIFIER), aliases={}
        )
    },
    adapt={
        "embeddings.tokens.weight": vocabulary,
        "embeddings.positions.weight": first_rows,
        "head.bias": vocabulary,
    },
)
